// The data, the language, and small helpers. Text from the data is only ever put in as text, never as HTML.
const D = JSON.parse(document.getElementById('data').textContent);
let language = (navigator.language || 'en').toLowerCase().startsWith('fr') ? 'fr' : 'en';
const asked = new URLSearchParams(location.hash.slice(1)).get('lang');
if (asked === 'en' || asked === 'fr') language = asked;

function w(key, values) {
  let text = WORDS[language][key] ?? WORDS.en[key] ?? key;
  for (const name in values) text = text.replace('{' + name + '}', () => values[name]);
  return text;
}
const byId = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

function put(node, attributes, children) {
  for (const name in attributes) {
    const value = attributes[name];
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'value') node.value = value;
    else if (name === 'checked') node.checked = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(3)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}
const el = (name, attributes, ...children) => put(document.createElement(name), attributes, children);
const sv = (name, attributes, ...children) => put(document.createElementNS(SVG, name), attributes, children);
const clear = (node) => { node.textContent = ''; return node; };
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const number = (value, digits) => Number(value).toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
const seconds = (t, digits = 3) => number(t, digits) + ' s';
const short = (text, most) => (text.length > most ? text.slice(0, most - 1) + '…' : text);

// Colours that people with any colour vision tell apart; the style sheet has them for light and for dark.
const tone = (index) => `tone${index % 8}`;
const toneOf = new Map();
function toneFor(name) {
  if (!toneOf.has(name)) toneOf.set(name, tone(toneOf.size));
  return toneOf.get(name);
}

// One moment is chosen for the whole page; one may be looked at under the pointer.
const moment = { t: 0, look: null, listeners: [] };
function onMoment(listener) { moment.listeners.push(listener); }
let pending = false;
function choose(t, from) {
  moment.t = clamp(t, M.from, M.until);
  moment.from = from;
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; for (const listener of moment.listeners) listener(moment.from); });
}
function lookAt(t) {
  moment.look = t;
  const line = byId('look');
  if (line) placeLine(line, t);
}

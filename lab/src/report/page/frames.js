// The frames. Only the rows that can be seen are in the page: there may be a hundred thousand.
const rowsOf = { list: [], height: 26, picked: -1 };
const filter = { text: '', kind: 'any', protocol: '', end: '', around: false };
const FRAME_COLUMNS = ['time', '#', 'end', 'from', 'to', 'protocol', 'info', 'comment'];

function drawFrameFilters() {
  const area = clear(byId('frameFilters'));
  if (!F) { byId('frameCount').textContent = w('noFrames'); return; }
  const option = (value, text) => el('option', { value }, text);
  const pick = (key, label, options) => el('label', {}, w(label) + ' ', el('select', { id: 'filter-' + key, onchange: (e) => { filter[key] = e.target.value; filterFrames(); } }, options));
  const kinds = [...new Set(F.notes.map((n) => n[1]))];
  area.append(
    el('label', {}, w('search') + ' ', el('input', { type: 'search', id: 'filter-text', value: filter.text, oninput: (e) => { filter.text = e.target.value; clearTimeout(filter.timer); filter.timer = setTimeout(filterFrames, 120); } })),
    pick('kind', 'kind', [option('any', w('kindAny')), option('', w('kindNone')), ...kinds.map((k) => option(k, kindWord(k)))]),
    pick('protocol', 'protocol', [option('', w('any')), ...F.protocols.map((p, i) => option(String(i), p))]),
    pick('end', 'end', [option('', w('any')), ...F.ends.map((e, i) => option(String(i), e.name))]),
    el('label', {}, el('input', { type: 'checkbox', id: 'filter-around', checked: filter.around, onchange: (e) => { filter.around = e.target.checked; filterFrames(); } }), ' ' + w('around')));
  byId('filter-kind').value = filter.kind; byId('filter-protocol').value = filter.protocol; byId('filter-end').value = filter.end;
}
function filterFrames() {
  if (!F) return;
  const text = filter.text.trim().toLowerCase(), protocol = filter.protocol === '' ? -1 : Number(filter.protocol), end = filter.end === '' ? -1 : Number(filter.end);
  const hit = text && F.texts.map((t) => t.toLowerCase().includes(text));
  const noted = (i) => (F.notesOf.get(i) || []);
  const list = [];
  const candidates = filter.kind === '' ? null : [...F.notesOf.keys()].sort((a, b) => a - b);
  const count = candidates ? candidates.length : F.rows;
  for (let j = 0; j < count; j++) {
    const i = candidates ? candidates[j] : j;
    if (filter.kind && filter.kind !== 'any' && !noted(i).some((n) => n.kind === filter.kind)) continue;
    if (protocol >= 0 && F.protocol[i] !== protocol) continue;
    if (end >= 0 && F.end[i] !== end) continue;
    if (filter.around && Math.abs(F.t[i] - moment.t) > 1) continue;
    if (text && !(hit[F.from[i]] || hit[F.to[i]] || hit[F.info[i]] || F.ends[F.end[i]].name.toLowerCase().includes(text) || noted(i).some((n) => n[language].toLowerCase().includes(text)))) continue;
    list.push(i);
  }
  rowsOf.list = list;
  byId('frameCount').textContent = w('frameCount', { n: number(list.length, 0), all: number(F.rows, 0) }) + (F.rows < F.sent ? w('frameLeft', { rows: number(F.rows, 0), all: number(F.sent, 0) }) : '');
  drawFrames();
}
function drawFrames() {
  const table = clear(byId('frameTable'));
  table.hidden = !F;
  if (!F) return;
  const probe = el('div', { class: 'row' }, el('span', {}, 'X'));
  table.append(probe);
  rowsOf.height = Math.max(20, Math.ceil(probe.getBoundingClientRect().height));
  probe.remove();
  table.setAttribute('aria-rowcount', rowsOf.list.length + 1);
  table.setAttribute('aria-label', w('frames'));
  table.append(
    el('div', { class: 'row head', role: 'row', 'aria-rowindex': 1 }, FRAME_COLUMNS.map((c) => el('span', { role: 'columnheader', class: 'c-' + (c === '#' ? 'number' : c) }, c === '#' ? '#' : w(c)))),
    el('div', { id: 'sheet', style: `height:${Math.min(rowsOf.list.length * rowsOf.height, 1.5e7)}px` }, el('div', { id: 'window' })));
  drawWindow();
}
// Browsers cut elements that are too high: then one pixel of the scroll bar is more than one of the rows.
function drawWindow() {
  const table = byId('frameTable'), win = byId('window');
  if (!win) return;
  const whole = rowsOf.list.length * rowsOf.height, sheet = Math.min(whole, 1.5e7), visible = table.clientHeight || 400;
  const top = sheet > visible ? (table.scrollTop / (sheet - visible)) * (whole - visible) : table.scrollTop;
  const first = clamp(Math.floor(top / rowsOf.height) - 4, 0, Math.max(0, rowsOf.list.length - 1)), last = Math.min(rowsOf.list.length, first + Math.ceil(visible / rowsOf.height) + 10);
  showDetail();
  win.style.transform = `translateY(${table.scrollTop - (top - first * rowsOf.height)}px)`;
  put(clear(win), {}, rowsOf.list.slice(first, last).map((i, j) => frameRow(i, first + j)));
}
// All of what is said of the frame that is picked: its cell may be too narrow for it.
function showDetail() {
  const i = rowsOf.picked, shown = i >= 0 && rowsOf.list.includes(i);
  const text = shown ? [`#${F.n[i]}, ${seconds(F.t[i], 6)}, ${F.ends[F.end[i]].name}, ${F.length[i]} ${w('bytes')}: ${F.texts[F.from[i]]} → ${F.texts[F.to[i]]}, ${F.protocols[F.protocol[i]]} ${F.texts[F.info[i]]}`, ...(F.notesOf.get(i) || []).map(noteText)].join('\n') : '';
  const area = byId('frameDetail');
  if (area.textContent !== text) area.textContent = text;
}
function cellsOf(i) {
  const notes = F.notesOf.get(i) || [];
  return [number(F.t[i], 6), String(F.n[i]), F.ends[F.end[i]].name, F.texts[F.from[i]], F.texts[F.to[i]], F.protocols[F.protocol[i]], F.texts[F.info[i]], notes.map((n) => n[language]).join(' · ')];
}
function frameRow(i, place) {
  const notes = F.notesOf.get(i) || [], names = ['time', 'number', 'end', 'from', 'to', 'protocol', 'info', 'comment'];
  return el('div', { class: 'row' + (notes.length ? ' noted ' + notes[0].kind : '') + (i === rowsOf.picked ? ' picked' : ''), role: 'row', 'aria-rowindex': place + 2, 'data-row': i, onclick: () => pickRow(i), onmouseenter: () => lookAt(F.t[i]), onmouseleave: () => lookAt(null) },
    cellsOf(i).map((text, c) => el('span', { role: 'cell', class: 'c-' + names[c], title: text }, text)));
}
function pickRow(i) { rowsOf.picked = i; choose(F.t[i], 'frames'); drawWindow(); }
// Brings a frame into view, and takes filters away that hide it.
function showRow(i) {
  if (!rowsOf.list.includes(i)) { Object.assign(filter, { text: '', kind: F.notesOf.has(i) ? 'any' : '', protocol: '', end: '', around: false }); drawFrameFilters(); filterFrames(); }
  rowsOf.picked = i;
  scrollToPlace(rowsOf.list.indexOf(i));
}
function scrollToPlace(place) {
  const table = byId('frameTable'), whole = rowsOf.list.length * rowsOf.height, sheet = Math.min(whole, 1.5e7), visible = table.clientHeight;
  const top = clamp(place * rowsOf.height - visible / 3, 0, Math.max(0, whole - visible));
  table.scrollTop = whole > visible ? (top / (whole - visible)) * (sheet - visible) : 0;
  drawWindow();
}
// The moment was chosen elsewhere: the nearest frame of those that pass the filters.
function framesFollow(from) {
  if (!F || from === 'frames') return;
  if (filter.around) { filterFrames(); return; }
  if (!rowsOf.list.length) return;
  let low = 0, high = rowsOf.list.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (F.t[rowsOf.list[middle]] < moment.t - 1e-6) low = middle + 1; else high = middle; }
  if (low > 0 && Math.abs(F.t[rowsOf.list[low - 1]] - moment.t) < Math.abs(F.t[rowsOf.list[low]] - moment.t)) low--;
  rowsOf.picked = rowsOf.list[low];
  scrollToPlace(low);
}
function listenToFrames() {
  const table = byId('frameTable');
  table.addEventListener('scroll', () => requestAnimationFrame(drawWindow));
  table.addEventListener('keydown', (event) => {
    const way = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -Infinity, End: Infinity }[event.key];
    if (way === undefined || !rowsOf.list.length) return;
    event.preventDefault();
    const place = clamp(rowsOf.list.indexOf(rowsOf.picked) + way, 0, rowsOf.list.length - 1);
    rowsOf.picked = rowsOf.list[place];
    choose(F.t[rowsOf.picked], 'frames');
    scrollToPlace(place);
  });
}
// On paper: what has a comment, as a plain table.
function printFrames(most = 400) {
  const area = clear(byId('framePrint'));
  if (!F) return;
  const rows = [...F.notesOf.keys()].sort((a, b) => a - b);
  area.append(el('p', {}, w('framesPrinted', { n: number(Math.min(most, rows.length), 0), all: number(rows.length, 0) })),
    el('table', { class: 'list' }, el('thead', {}, el('tr', {}, ['#', w('time'), w('end'), w('comment')].map((c) => el('th', {}, c)))), el('tbody', {}, rows.slice(0, most).map((i) => el('tr', {}, [F.n[i], number(F.t[i], 6), F.ends[F.end[i]].name, cellsOf(i).at(-1)].map((text) => el('td', {}, String(text))))))));
}

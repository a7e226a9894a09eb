// Kernel tables at two moments, manifests, logs.
const chosenTables = { node: '', left: 0, right: -1 };
function drawTables() {
  const controls = clear(byId('tableControls')), area = clear(byId('tableArea')), list = D.tables || [];
  if (!list.length) { area.append(el('p', {}, w('noTables'))); return; }
  const nodes = [...new Set(list.flatMap((m) => Object.keys(m.nodes)))];
  const directors = nodes.filter((n) => D.topology && D.topology.nodes.some((node) => node.name === n && node.director));
  if (!nodes.includes(chosenTables.node)) chosenTables.node = directors[0] || nodes[0];
  if (chosenTables.right < 0) chosenTables.right = list.length - 1;
  const named = (m) => `${w(m.moment === 'end' ? 'atEnd' : m.moment)} (${seconds(m.t, 1)})`;
  const pick = (key, label, options) => {
    const select = el('select', { id: 'tables-' + key, onchange: (e) => { chosenTables[key] = key === 'node' ? e.target.value : Number(e.target.value); drawTables(); } }, options);
    select.value = String(chosenTables[key]);
    return el('label', {}, w(label) + ' ', select);
  };
  const moments = () => list.map((m, i) => el('option', { value: i }, named(m)));
  controls.append(pick('node', 'node', nodes.map((n) => el('option', { value: n }, n))), pick('left', 'left', moments()), pick('right', 'right', moments()));
  const sides = [list[chosenTables.left], list[chosenTables.right]].map((m) => ({ title: named(m), tables: m.nodes[chosenTables.node] || {} }));
  for (const command of new Set(sides.flatMap((s) => Object.keys(s.tables)))) {
    const [one, two] = sides.map((s) => (s.tables[command] || '').split('\n'));
    const same = one.join('\n') === two.join('\n'), sets = [new Set(one), new Set(two)];
    const side = (lines, other, title) => el('div', {}, el('h4', {}, title), el('pre', {}, lines.map((line) => el('span', { class: other.has(line) ? '' : 'differs' }, line + '\n'))));
    area.append(el('details', { open: !same || !command.startsWith('nft') }, el('summary', {}, el('code', {}, command), same && el('span', { class: 'dim' }, ' – ' + w('same'))),
      same ? el('pre', {}, one.join('\n')) : el('div', { class: 'sides' }, side(one, sets[1], sides[0].title), side(two, sets[0], sides[1].title))));
  }
}
function drawManifests() {
  const area = clear(byId('manifestArea')), list = D.manifests || [];
  if (!list.length) { area.append(el('p', {}, w('noManifests'))); return; }
  // Those that are the same on several machines are there once.
  for (const files of groupBy(list, (m) => m.file + '\n' + m.text).values()) {
    const changes = EVENTS.filter((e) => e.kind === 'apply' && e.file === files[0].file && files.some((f) => f.node === e.node));
    area.append(el('details', {}, el('summary', {}, el('b', {}, files.map((f) => f.node).join(', ')), ' ', el('code', {}, files[0].file),
      changes.length > 0 && el('span', { class: 'dim' }, ` – ${w('changed')} ${changes.map((e) => `${seconds(e.t, 1)} (${e.node})`).join(', ')}`)), el('pre', {}, files[0].text)));
  }
}
let logText = '';
function drawLogs() {
  const controls = clear(byId('logControls')), list = D.logs || [];
  if (!list.length) { clear(byId('logArea')).append(el('p', {}, w('noLogs'))); return; }
  controls.append(el('label', {}, w('logSearch') + ' ', el('input', { type: 'search', id: 'filter-logs', value: logText, oninput: (e) => { logText = e.target.value; fillLogs(); } })));
  fillLogs();
}
function fillLogs() {
  const area = clear(byId('logArea')), wanted = logText.trim().toLowerCase();
  for (const log of D.logs) {
    const lines = log.text.replace(/\n$/, '').split('\n').filter((line) => !wanted || line.toLowerCase().includes(wanted));
    if (wanted && !lines.length) continue;
    const pre = el('pre', { class: 'log' }), fill = () => { if (!pre.firstChild) put(pre, {}, lines.map((line) => el('span', { class: /\b(WARN|ERROR)\b/.test(line) ? 'warn' : '' }, line + '\n'))); };
    const details = el('details', { open: Boolean(wanted), ontoggle: fill }, el('summary', {}, el('b', {}, log.node), ' ', el('code', {}, log.program), el('span', { class: 'dim' }, ' – ' + w('lines', { n: number(lines.length, 0) }))), pre);
    if (wanted) fill();
    area.append(details);
  }
}

// The network as it was at the chosen moment.
function linksDown(t) {
  const down = new Set();
  for (const event of EVENTS) {
    if (event.kind !== 'link' || event.t > t || event.t < -1e9) continue;
    const key = event.node + '/' + event.interface;
    if (event.gone || event.up === false || event.carrier === false) down.add(key); else down.delete(key);
  }
  return down;
}
const nodeFaults = (t) => {
  const faults = new Map();
  for (const fault of at(M.faults, t)) {
    for (const word of fault.fault.split(/[^A-Za-z0-9_.-]+/)) if (D.topology.nodes.some((n) => n.name === word)) { if (!faults.has(word)) faults.set(word, []); faults.get(word).push(fault.fault); }
  }
  return faults;
};

// Where everything is: networks are bars; machines on one network only are above the first or below it, those on two between them.
const BOX = 196, GAP = 24, ROW = 8, LINE = 17;
function layout() {
  const nets = D.topology.networks.map((n) => n.name);
  const bands = Array.from({ length: nets.length + 1 }, () => []);
  for (const node of D.topology.nodes) {
    const places = [...new Set(node.links.map((l) => nets.indexOf(l.network)))].filter((i) => i >= 0).sort((a, b) => a - b);
    if (!places.length) bands[nets.length].push(node);
    else if (places.length > 1) bands[places[0] + 1].push(node);
    else if (nets.length === 1) bands[node.director ? 0 : 1].push(node);
    else bands[places[0] === 0 ? 0 : places[0] + 1].push(node);
  }
  return { nets, bands };
}

function stateOf(t) {
  const down = linksDown(t), faults = nodeFaults(t), state = new Map();
  for (const node of D.topology.nodes) {
    state.set(node.name, {
      vrrp: at(M.vrrp, t).filter((s) => s.node === node.name), holds: at(M.holders, t).filter((s) => s.node === node.name),
      faults: faults.get(node.name) || [], down: node.links.filter((l) => down.has(node.name + '/' + l.interface)).map((l) => l.interface),
      checks: at(M.checks, t).filter((s) => s.value === 'down' && node.links.some((l) => l.addresses.some((a) => s.name.includes(addressOf(a) + ':')))),
    });
  }
  return state;
}

function drawTopology() {
  const drawing = clear(byId('drawing')), table = clear(byId('state'));
  if (!D.topology) { drawing.append(el('p', {}, w('noTopology'))); return; }
  const { nets, bands } = layout(), state = stateOf(moment.t);
  const lines = (node) => {
    const s = state.get(node.name);
    return [
      ...(node.runs.length ? [['dim', short(node.runs.join(', '), 23)]] : []),
      ...s.vrrp.map((v) => ['vrrp ' + v.value, short(`${v.value} · ${v.group}`, 23)]),
      ...s.holds.map((h) => ['holds', short(h.address, 23)]),
      ...s.checks.slice(0, 2).map((c) => ['bad', short(`${w('laneCheck')}: ${w('down')}`, 23)]),
      ...s.faults.map((f) => ['bad', short(f, 23)]),
    ];
  };
  const widest = Math.min(ROW, Math.max(1, ...bands.map((band) => band.length)));
  const width = Math.max(widest * (BOX + GAP) + GAP, 420);
  const parts = { cables: [], boxes: [], bars: [] }, bars = [];
  let y = 8;
  bands.forEach((band, index) => {
    const rows = [];
    for (let i = 0; i < band.length; i += ROW) rows.push(band.slice(i, i + ROW));
    for (const row of rows) {
      const height = 26 + LINE * Math.max(1, ...row.map((node) => lines(node).length));
      const left = (width - row.length * (BOX + GAP) + GAP) / 2;
      y += 34;
      row.forEach((node, i) => parts.boxes.push({ node, x: left + i * (BOX + GAP), y, height, lines: lines(node) }));
      y += height + 34;
    }
    if (index < nets.length) { bars.push(y); parts.bars.push({ name: nets[index], y }); y += 24; }
  });
  const svg = sv('svg', { viewBox: `0 0 ${width} ${y + 8}`, width, role: 'img', 'aria-label': w('topology') });
  for (const bar of parts.bars) svg.append(sv('rect', { x: GAP / 2, y: bar.y, width: width - GAP, height: 22, rx: 6, class: 'network' }), sv('text', { x: GAP, y: bar.y + 15, class: 'networkName' }, bar.name));
  for (const box of parts.boxes) {
    box.node.links.forEach((link, i) => {
      const net = nets.indexOf(link.network);
      if (net < 0) return;
      const s = state.get(box.node.name), isDown = s.down.includes(link.interface), below = bars[net] > box.y;
      const x = box.x + (BOX * (i + 1)) / (box.node.links.length + 1);
      const [from, to] = below ? [box.y + box.height, bars[net]] : [bars[net] + 22, box.y];
      svg.append(sv('line', { x1: x, x2: x, y1: from, y2: to, class: 'cable' + (isDown ? ' down' : '') }, sv('title', {}, `${box.node.name} ${link.interface} ${link.addresses.join(' ')}${isDown ? ' – ' + w('linkDown') : ''}`)));
      const label = short(`${link.interface}${isDown ? ' ✕' : ''}`, 16), address = link.addresses[0] ? addressOf(link.addresses[0]) : '';
      const ty = below ? box.y + box.height + 13 : box.y - 20;
      svg.append(sv('text', { x: x + 4, y: ty, class: 'link' + (isDown ? ' bad' : '') }, label), sv('text', { x: x + 4, y: ty + 13, class: 'link dim' }, address));
    });
    const s = state.get(box.node.name), active = s.vrrp.some((v) => v.value === 'Active');
    const group = sv('g', { class: 'node' + (active ? ' active' : '') + (s.faults.length ? ' faulty' : '') },
      sv('rect', { x: box.x, y: box.y, width: BOX, height: box.height, rx: 8 }),
      sv('text', { x: box.x + 10, y: box.y + 18, class: 'nodeName' }, short(box.node.name, 20)),
      box.lines.map(([kind, text], i) => sv('text', { x: box.x + 10, y: box.y + 18 + LINE * (i + 1), class: kind }, text)),
      sv('title', {}, [box.node.name, box.node.description, ...box.node.runs].filter(Boolean).join('\n')));
    svg.append(group);
  }
  drawing.append(svg);
  const cells = (node) => {
    const s = state.get(node.name);
    return [node.name, s.vrrp.map((v) => `${v.group}: ${v.value}`).join(', '), s.holds.map((h) => `${h.address} (${h.value})`).join(', '),
      [...s.faults, ...s.down.map((i) => `${i} ${w('linkDown')}`)].join(', ')];
  };
  const rows = D.topology.nodes.map(cells).filter((row) => row.slice(1).some(Boolean));
  const heads = ['node', 'laneVrrp', 'addresses', 'faultsNow'].map((key) => el('th', { scope: 'col' }, w(key)));
  if (rows.length) table.append(el('table', { class: 'list' }, el('caption', {}, `${w('state')}: ${seconds(moment.t)}`), el('thead', {}, el('tr', {}, heads)), el('tbody', {}, rows.map((row) => el('tr', {}, row.map((cell, i) => el(i ? 'td' : 'th', i ? {} : { scope: 'row' }, cell)))))));
}

function drawMoment() {
  const step = (way) => () => choose(neighbour(way), 'moment');
  put(clear(byId('moment')), {}, [
    el('button', { type: 'button', onclick: step(-1), 'aria-label': w('before'), title: w('before') }, '◀'),
    el('input', { type: 'range', id: 'slider', min: M.from, max: M.until, step: 0.001, value: moment.t, 'aria-label': w('moment'), oninput: (e) => choose(Number(e.target.value), 'moment') }),
    el('button', { type: 'button', onclick: step(1), 'aria-label': w('after'), title: w('after') }, '▶'),
    el('output', { id: 'chosen', for: 'slider' }, seconds(moment.t)),
    el('span', { id: 'stepNow', class: 'dim' }),
  ]);
  showMoment();
}
function showMoment() {
  byId('slider').value = moment.t;
  byId('slider').setAttribute('aria-valuetext', seconds(moment.t));
  byId('chosen').textContent = seconds(moment.t);
  const step = (D.result.steps || []).filter((s) => s.atSeconds <= moment.t).at(-1);
  byId('stepNow').textContent = step ? `${w('step')}: ${step.name}` : '';
}
function neighbour(way) {
  const i = firstAfter(M.stops, moment.t + (way > 0 ? 1e-6 : -1e-6));
  if (way > 0) return M.stops[i] ?? M.until;
  return M.stops[Math.min(i, M.stops.length) - 1] ?? M.from;
}

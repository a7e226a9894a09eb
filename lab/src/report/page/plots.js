// How long answers took, and how many came a second, of each load. Many points are drawn as the range of those at one place.
const PLOT = { width: 760, height: 190, left: 56, right: 12, top: 12, bottom: 26 };
function drawPlots() {
  const area = clear(byId('plotArea'));
  if (!M.loads.length) { area.append(el('p', {}, w('noRequests'))); return; }
  for (const load of M.loads) {
    const totals = D.result.loads && D.result.loads[load.name];
    const legend = load.answerers.map((name) => el('span', { class: 'key' }, sv('svg', { width: 12, height: 12, 'aria-hidden': 'true' }, sv('rect', { width: 12, height: 12, class: toneFor(name) })), name || w('ok')));
    area.append(el('figure', { class: 'plot' },
      el('figcaption', {}, el('b', {}, load.name), totals ? ` ${totals.from} → ${totals.target} · ${number(totals.ok, 0)} ${w('ok')}, ${number(totals.failed, 0)} ${w('failedRequests')} ` : ' ', legend,
        el('span', { class: 'key' }, sv('svg', { width: 12, height: 12, 'aria-hidden': 'true' }, sv('path', { d: 'M2 2l8 8m0-8l-8 8', class: 'cross' })), w('failedRequests'))),
      latency(load), throughput(load)));
  }
}
function plotFrame(title, from, until, most, unit) {
  const { width, height, left, right, top, bottom } = PLOT;
  const x = (t) => left + ((t - from) / (until - from || 1)) * (width - left - right), y = (v) => height - bottom - (v / most) * (height - top - bottom);
  const svg = sv('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': title });
  svg.append(sv('text', { x: left, y: 10, class: 'plotTitle' }, `${title}${unit ? ` (${unit})` : ''}`));
  for (const part of [0, 0.5, 1]) svg.append(sv('line', { x1: left, x2: width - right, y1: y(most * part), y2: y(most * part), class: 'grid' }), sv('text', { x: left - 6, y: y(most * part) + 4, 'text-anchor': 'end' }, number(most * part, most < 10 ? 1 : 0)));
  for (let i = 0; i <= 4; i++) { const t = from + ((until - from) * i) / 4; svg.append(sv('text', { x: x(t), y: height - 8, 'text-anchor': i === 4 ? 'end' : i ? 'middle' : 'start' }, number(t, 1) + ' s')); }
  svg.addEventListener('click', (event) => {
    const box = svg.getBoundingClientRect(), inside = ((event.clientX - box.left) / box.width) * width;
    choose(from + ((inside - left) / (width - left - right)) * (until - from), 'plots');
  });
  const faults = sv('g', {});
  for (const f of M.faults) if (f.end > from && f.t < until) faults.append(sv('rect', { x: x(Math.max(f.t, from)), y: top, width: Math.max(x(Math.min(f.end, until)) - x(Math.max(f.t, from)), 1), height: height - top - bottom, class: 'faultBand' }, sv('title', {}, f.fault)));
  svg.append(faults);
  return { svg, x, y };
}
const ends = (load) => [load.due[0] / 1000, Math.max(load.due.at(-1) / 1000, load.due[0] / 1000 + 0.1)];
function latency(load) {
  const [from, until] = ends(load), good = load.took.filter((_, i) => load.ok[i]).sort((a, b) => a - b);
  // A few slow ones must not flatten all others: they are drawn at the top.
  const most = Math.max((good[Math.floor(good.length * 0.995)] || 1) * 1.15, 1);
  const { svg, x, y } = plotFrame(w('latency'), from, until, most, w('milliseconds'));
  const cells = new Map();
  load.due.forEach((due, i) => {
    const cx = Math.round(x(due / 1000) * 2) / 2, tone = load.ok[i] ? toneFor(load.answerers[load.by[i]] || '') : 'cross';
    const key = cx + tone, cy = load.ok[i] ? y(Math.min(load.took[i], most)) : PLOT.top + 4;
    const cell = cells.get(key);
    if (!cell) cells.set(key, { cx, tone, low: cy, high: cy });
    else { cell.low = Math.max(cell.low, cy); cell.high = Math.min(cell.high, cy); }
  });
  for (const c of cells.values()) {
    if (c.tone === 'cross') svg.append(sv('path', { d: `M${c.cx - 3} ${c.high - 3}l6 6m0-6l-6 6`, class: 'cross' }));
    else svg.append(sv('line', { x1: c.cx, x2: c.cx, y1: c.low + 1.5, y2: c.high - 1.5, class: 'dot line-' + c.tone }));
  }
  return svg;
}
function throughput(load) {
  const [from, until] = ends(load), length = until - from, size = length > 4 ? Math.ceil(length / 120) : length / 4, bins = Math.ceil((until - from) / size) + 1;
  const good = new Array(bins).fill(0), bad = new Array(bins).fill(0);
  load.due.forEach((due, i) => { const bin = Math.floor((due / 1000 - from) / size); if (load.ok[i]) good[bin]++; else bad[bin]++; });
  const most = Math.max(1, ...good.map((n, i) => (n + bad[i]) / size)) * 1.1;
  const { svg, x, y } = plotFrame(w('throughput'), from, until, most, '');
  const path = (counts) => counts.map((n, i) => `${i ? 'L' : 'M'}${x(Math.min(from + i * size, until)).toFixed(1)} ${y(n / size).toFixed(1)}H${x(Math.min(from + (i + 1) * size, until)).toFixed(1)}`).join('');
  svg.append(sv('path', { d: path(good), class: 'curve' }));
  if (bad.some(Boolean)) svg.append(sv('path', { d: path(bad), class: 'curve bad' }));
  return svg;
}

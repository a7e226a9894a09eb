// The timeline: lanes with a label each and a drawing beside it; one line over all of them for the chosen moment.
const view = { a: 0, b: 1 };
const H = 20;
const px = (t, width) => ((t - view.a) / (view.b - view.a)) * width;
const timeAt = (x, width) => view.a + (x / width) * (view.b - view.a);

function placeLine(line, t) {
  const area = byId('lanes'), first = area.querySelector('.track');
  if (!first || t === null || t < view.a || t > view.b) { line.hidden = true; return; }
  line.hidden = false;
  line.style.left = `${first.offsetLeft + px(t, first.clientWidth)}px`;
}

function drawZoom() {
  const zoom = (factor) => () => zoomBy(factor, moment.t);
  put(clear(byId('zoom')), {}, [
    el('button', { type: 'button', onclick: zoom(0.5) }, '+ ' + w('zoomIn')), el('button', { type: 'button', onclick: zoom(2) }, '− ' + w('zoomOut')),
    el('button', { type: 'button', onclick: () => show(M.from, M.until) }, w('all')), el('span', { id: 'viewed', class: 'dim' }),
  ]);
}
function show(a, b) {
  const least = 0.01, size = clamp(b - a, least, M.until - M.from || least);
  view.a = clamp(a, M.from, Math.max(M.until - size, M.from));
  view.b = view.a + size;
  drawLanes();
}
function zoomBy(factor, around) {
  const t = clamp(around, view.a, view.b), size = (view.b - view.a) * factor;
  show(t - ((t - view.a) / (view.b - view.a)) * size, t - ((t - view.a) / (view.b - view.a)) * size + size);
}

function ticks(count) {
  const raw = (view.b - view.a) / count, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw), out = [];
  for (let i = Math.ceil(view.a / size); i * size <= view.b; i++) out.push(i * size);
  return { at: out, digits: Math.max(0, -Math.floor(Math.log10(size))) };
}

function drawLanes() {
  const area = clear(byId('lanes'));
  const probe = el('div', { class: 'lane' }, el('div', { class: 'label' }), el('div', { class: 'track' }));
  area.append(probe);
  const width = Math.max(probe.lastChild.clientWidth, 120);
  probe.remove();
  const axis = sv('svg', { width, height: 20, class: 'axis', 'aria-hidden': 'true' }), marks = ticks(clamp(Math.floor(width / 90), 2, 12));
  for (const t of marks.at) axis.append(sv('line', { x1: px(t, width), x2: px(t, width), y1: 14, y2: 20 }), sv('text', { x: px(t, width), y: 12, 'text-anchor': px(t, width) > width - 30 ? 'end' : px(t, width) < 20 ? 'start' : 'middle' }, number(t, marks.digits) + ' s'));
  area.append(el('div', { class: 'lane axisLane' }, el('div', { class: 'label' }), el('div', { class: 'track' }, axis)));
  let group = '';
  for (const l of M.lanes) {
    const title = l.kind === 'notes' ? kindWord(l.title) : l.title;
    const label = el('div', { class: 'label' }, l.group !== group && el('b', {}, w(l.group) + (title ? ' ' : '')), title && el('span', {}, title), l.more && el('span', { class: 'dim' }, ' · ' + w('more', { n: l.more })));
    group = l.group;
    const draw = { spans: drawSpans, points: drawPoints, requests: drawRequests, notes: drawNotes }[l.kind];
    area.append(el('div', { class: 'lane ' + l.kind }, label, el('div', { class: 'track' }, draw(l, width))));
  }
  area.append(el('div', { id: 'cursor', class: 'cursor' }), el('div', { id: 'look', class: 'cursor look', hidden: true }));
  const viewed = byId('viewed');
  if (viewed) viewed.textContent = `${seconds(view.a, 2)} – ${seconds(view.b, 2)}`;
  showCursor(false);
}
function showCursor(say = true) {
  placeLine(byId('cursor'), moment.t);
  const area = byId('lanes');
  area.setAttribute('aria-label', w('timeline'));
  area.setAttribute('aria-valuemin', M.from); area.setAttribute('aria-valuemax', M.until); area.setAttribute('aria-valuenow', moment.t);
  const now = M.lanes.filter((l) => l.kind === 'spans' || l.kind === 'points').flatMap((l) => l.items.filter((i) => Math.abs(i.t - moment.t) < 1e-6)).map((i) => i.text());
  area.setAttribute('aria-valuetext', [seconds(moment.t), ...now].join('; '));
  if (say) byId('said').textContent = now.length ? `${seconds(moment.t)}: ${short(now.join(' · '), 500)}` : '';
}

function mark(node, text, t, row) {
  node.setAttribute('data-at', t);
  node.append(sv('title', {}, `${seconds(t)}: ${text}`));
  node.addEventListener('click', (e) => { e.stopPropagation(); choose(t, 'mark'); byId('said').textContent = `${seconds(t)}: ${text}`; if (row !== undefined) showRow(row); });
  node.addEventListener('mouseenter', () => { byId('said').textContent = `${seconds(t)}: ${short(text, 500)}`; lookAt(t); });
  node.addEventListener('mouseleave', () => lookAt(null));
  return node;
}
function drawSpans(l, width) {
  const rows = l.rows || [''], svg = sv('svg', { width, height: H * rows.length });
  for (const item of l.items) {
    if (item.end < view.a || item.t > view.b) continue;
    const x = Math.max(px(item.t, width), -2), right = Math.min(px(item.end, width), width + 2), y = H * Math.max(0, rows.indexOf(item.node));
    const box = sv('g', { class: 'span ' + item.tone }, sv('rect', { x, y: y + 2, width: Math.max(right - x - 0.5, 1.5), height: H - 4, rx: 3 }));
    if (right - x > 26) box.append(sv('text', { x: Math.max(x, 0) + 4, y: y + 14 }, short(typeof item.label === 'function' ? item.label() : item.label, Math.max(1, Math.floor((right - Math.max(x, 0) - 8) / 7.6)))));
    svg.append(mark(box, item.text(), item.t));
  }
  return svg;
}
function drawPoints(l, width) {
  const svg = sv('svg', { width, height: H });
  let last = -9, skipped = 0;
  for (const item of l.items) {
    if (item.t < view.a || item.t > view.b) continue;
    const x = px(item.t, width);
    if (x - last < 1 && ++skipped) continue;
    last = x;
    svg.append(mark(sv('path', { d: `M${x} 3l5 7l-5 7l-5-7z`, class: 'point ' + item.tone }), item.text(), item.t));
  }
  return svg;
}
// Requests by when they were due: answered ones from below, coloured by who answered; failed ones from above.
function drawRequests(l, width) {
  const height = 44, svg = sv('svg', { width, height }), r = l.load, bins = Math.max(8, Math.floor(width / 4)), size = (view.b - view.a) / bins;
  const counts = Array.from({ length: bins }, () => ({ by: [], bad: 0, ok: 0 }));
  for (let i = firstAfter(r.due, view.a * 1000); i < r.due.length && r.due[i] <= view.b * 1000; i++) {
    const bin = counts[Math.min(bins - 1, Math.floor((r.due[i] / 1000 - view.a) / size))];
    if (!bin) continue;
    if (r.ok[i]) { bin.ok++; bin.by[r.by[i]] = (bin.by[r.by[i]] || 0) + 1; } else bin.bad++;
  }
  const most = Math.max(1, ...counts.map((bin) => bin.ok + bin.bad)), scale = (height - 4) / most, step = width / bins;
  counts.forEach((bin, i) => {
    if (!bin.ok && !bin.bad) return;
    const x = i * step, t = view.a + i * size, g = sv('g', { class: 'bin' });
    let y = height - 2;
    bin.by.forEach((count, who) => { if (!count) return; y -= count * scale; g.append(sv('rect', { x, y, width: Math.max(step - 0.6, 1), height: count * scale, class: toneFor(r.answerers[who] || '') })); });
    if (bin.bad) g.append(sv('rect', { x, y: 2, width: Math.max(step - 0.6, 1), height: Math.max(bin.bad * scale, 2), class: 'bad' }));
    const who = bin.by.map((count, index) => count && `${r.answerers[index] || w('ok')} ${count}`).filter(Boolean).join(', ');
    svg.append(mark(g, w('requestsBin', { from: seconds(t, 2), to: seconds(t + size, 2), ok: bin.ok, bad: bin.bad }) + (who ? ` – ${who}` : ''), t));
  });
  return svg;
}
function drawNotes(l, width) {
  const svg = sv('svg', { width, height: H }), bins = Math.max(8, Math.floor(width / 5));
  const groups = groupBy(l.items.filter((i) => i.t >= view.a && i.t <= view.b), (i) => Math.floor(((i.t - view.a) / (view.b - view.a)) * bins));
  for (const items of groups.values()) {
    const first = items[0], x = px(first.t, width), text = noteText({ en: first.note[2], fr: first.note[3] }) + (items.length > 1 ? ` (+${items.length - 1})` : '');
    svg.append(mark(sv('circle', { cx: x, cy: H / 2, r: Math.min(3 + Math.log2(items.length) / 2, 6), class: 'note ' + l.title }), text, first.t, first.row));
  }
  return svg;
}

function listenToLanes() {
  const area = byId('lanes');
  const where = (event) => {
    const track = area.querySelector('.track');
    if (!track) return null;
    const x = event.clientX - track.getBoundingClientRect().left;
    return x >= 0 && x <= track.clientWidth ? timeAt(x, track.clientWidth) : null;
  };
  area.addEventListener('click', (event) => { const t = where(event); if (t !== null) choose(t, 'lanes'); });
  area.addEventListener('mousemove', (event) => lookAt(where(event)));
  area.addEventListener('mouseleave', () => lookAt(null));
  area.addEventListener('wheel', (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const t = where(event);
    if (t !== null) zoomBy(event.deltaY > 0 ? 1.25 : 0.8, t);
  }, { passive: false });
  area.addEventListener('keydown', (event) => {
    const does = {
      ArrowRight: () => choose(neighbour(1), 'keys'), ArrowLeft: () => choose(neighbour(-1), 'keys'), Home: () => choose(M.from, 'keys'), End: () => choose(M.until, 'keys'),
      '+': () => zoomBy(0.5, moment.t), '-': () => zoomBy(2, moment.t), '0': () => show(M.from, M.until),
    }[event.key];
    if (does && !event.ctrlKey && !event.metaKey) { event.preventDefault(); does(); }
  });
  new ResizeObserver(() => { clearTimeout(view.timer); view.timer = setTimeout(drawLanes, 60); }).observe(area);
}
function followMoment() {
  const size = view.b - view.a;
  if (moment.t < view.a || moment.t > view.b) show(moment.t - size / 2, moment.t + size / 2);
  else showCursor();
}

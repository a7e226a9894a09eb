// What happened, as spans and points in lanes. `t` is in seconds since the scenario began.
const EVENTS = D.events || [];
const M = { from: 0, until: Math.max(D.result.durationSeconds || 0, 0.001), lanes: [], stops: [] };
const addressOf = (text) => text.split('/')[0];
const fixed = new Set();
for (const node of D.topology ? D.topology.nodes : []) for (const link of node.links) for (const a of link.addresses) fixed.add(node.name + ' ' + addressOf(a));
const dull = (a) => a.startsWith('127.') || a === '::1' || a.startsWith('fe80:');

// Spans out of changes: [{t, key, value}], a value lasts until the next of its key; null is nothing.
function spans(changes) {
  const open = new Map(), out = [];
  const close = (key, t) => {
    const span = open.get(key);
    if (span) { span.end = t; if (span.end >= M.from && span.end > span.t) out.push(span); open.delete(key); }
  };
  for (const change of changes.slice().sort((a, b) => a.t - b.t)) {
    const last = open.get(change.key);
    if (last && last.value === change.value) continue;
    close(change.key, change.t);
    if (change.value !== null) open.set(change.key, { ...change });
  }
  for (const key of [...open.keys()]) close(key, M.until);
  return out.sort((a, b) => a.t - b.t);
}
function groupBy(list, key) {
  const groups = new Map();
  for (const item of list) { const k = key(item); if (!groups.has(k)) groups.set(k, []); groups.get(k).push(item); }
  return groups;
}
const lane = (group, title, items, kind = 'spans', extra = {}) => { if (items.length) M.lanes.push({ group, title, items, kind, ...extra }); };

lane('laneSteps', '', (D.result.steps || []).map((s) => ({ t: s.atSeconds, end: s.atSeconds + s.durationSeconds, label: s.name, tone: 'step ' + s.verdict, text: () => `${s.name} (${s.action}): ${w(s.verdict)}, ${seconds(s.durationSeconds)}` })));

const ofKind = (...kinds) => EVENTS.filter((e) => kinds.includes(e.kind));
M.faults = [];
for (const event of ofKind('fault', 'heal')) {
  if (event.kind === 'fault') M.faults.push({ t: event.t, end: M.until, fault: event.fault, proof: event.proof, open: true });
  else {
    const fault = M.faults.find((f) => f.open && f.fault === event.fault);
    if (fault) { fault.open = false; fault.end = event.t; fault.healed = event.proof; }
  }
}
// A reboot needs no healing.
for (const fault of M.faults) if (fault.open && /^reboot/.test(fault.fault)) fault.end = Math.min(M.until, fault.t + 0.5);
lane('laneFaults', '', M.faults.map((f) => ({ t: f.t, end: f.end, label: f.fault, tone: 'fault', text: () => `${w('fault')}: ${f.fault} – ${f.proof}` + (f.healed ? ` · ${w('heal')}: ${f.healed}` : '') })));

const KNOWN = new Set(['step', 'fault', 'heal', 'address', 'link', 'realServer', 'connection', 'request', 'finding']);
const words = (event) => Object.entries(event).filter(([k, v]) => k !== 't' && k !== 'kind' && v !== null && v !== '').map(([k, v]) => `${k}: ${typeof v === 'object' ? JSON.stringify(v) : v}`).join(', ');
lane('laneOther', '', EVENTS.filter((e) => !KNOWN.has(e.kind) && e.t >= 0).map((e) => ({ t: e.t, label: e.kind, tone: 'event', text: () => short(`${e.kind} – ${words(e)}`, 400) })), 'points');

M.vrrp = spans((D.vrrp || []).map((e) => ({ t: e.t, key: e.group + '\n' + e.node, node: e.node, group: e.group, value: e.to, reason: e.reason })));
for (const [key, items] of groupBy(M.vrrp, (s) => s.key)) {
  const [group, node] = key.split('\n');
  lane('laneVrrp', `${node} – ${group}`, items.map((s) => ({ ...s, label: s.value, tone: 'vrrp ' + s.value, text: () => `${s.node}, ${s.group}: ${s.value} – ${s.reason}` })));
}

const MANY = 40;
const moving = ofKind('address').filter((e) => { const a = addressOf(e.address); return !dull(a) && !fixed.has(e.node + ' ' + a) && e.interface !== 'lo'; });
M.holders = spans(moving.map((e) => ({ t: e.t, key: addressOf(e.address) + '\n' + e.node + '\n' + e.interface, address: addressOf(e.address), node: e.node, value: e.change === 'added' ? e.interface : null })));
const holders = [...groupBy(M.holders, (s) => s.address)];
for (const [address, items] of holders.slice(0, MANY)) lane('laneHolder', address, items.map((s) => ({ ...s, label: s.node, tone: toneFor(s.node), text: () => `${address}: ${s.node} ${s.value}` })), 'spans', { rows: [...new Set(items.map((s) => s.node))] });
if (holders.length > MANY) M.lanes.at(-1).more = holders.length - MANY;

M.checks = spans((D.checks || []).map((e) => ({ t: e.t, key: [e.node, e.check, e.server, e.port].join('\n'), node: e.node, name: `${e.check} ${e.server}:${e.port}`, value: e.up ? 'up' : 'down', reason: e.text })));
const checks = [...groupBy(M.checks, (s) => s.key)];
for (const [, items] of checks.slice(0, MANY)) lane('laneCheck', `${items[0].node} – ${items[0].name}`, items.map((s) => ({ ...s, label: () => w(s.value), tone: 'check ' + s.value, text: () => `${s.node}, ${s.name}: ${w(s.value)} – ${s.reason}` })));
if (checks.length > MANY) M.lanes.at(-1).more = checks.length - MANY;

M.servers = spans(ofKind('realServer').map((e) => ({ t: e.t, key: [e.node, e.service, e.server].join('\n'), name: `${e.node} – ${e.service} → ${e.server}`, value: e.weight === null || e.weight === undefined ? null : String(e.weight) })));
const servers = [...groupBy(M.servers, (s) => s.key)];
for (const [, items] of servers.slice(0, MANY)) lane('laneServer', items[0].name, items.map((s) => ({ ...s, label: s.value, tone: 'weight' + (s.value === '0' ? ' zero' : ''), text: () => `${s.name}: ${w('weight', { n: s.value })}` })));
if (servers.length > MANY) M.lanes.at(-1).more = servers.length - MANY;

// Requests stay columns.
M.loads = Object.entries(D.requests || {}).map(([name, r]) => ({ name, ...r }));
for (const load of M.loads) M.lanes.push({ group: 'laneRequests', title: load.name, kind: 'requests', load, items: [] });
for (const [name, items] of groupBy(ofKind('connection').filter((e) => e.event !== 'alive'), (e) => e.load)) lane('laneConnections', name, items.map((e) => ({ t: e.t, label: e.event, tone: e.reset || e.error ? 'fault' : 'event', text: () => words(e) })), 'points');

// Frames: columns; differences become values once.
const F = D.frames ? { ...D.frames } : null;
if (F) {
  F.t = new Float64Array(F.rows);
  F.n = new Uint32Array(F.rows);
  let t = 0, n = 0;
  for (let i = 0; i < F.rows; i++) { t += F.time[i]; n += F.number[i]; F.t[i] = t / 1e6; F.n[i] = n + 1; }
  F.time = F.number = null;
  F.notesOf = new Map();
  for (const [row, kind, en, fr] of F.notes) { if (!F.notesOf.has(row)) F.notesOf.set(row, []); F.notesOf.get(row).push({ kind, en, fr }); }
  for (const kind of ['vrrp', 'claim', 'sync', 'ipvs', 'nat', 'check', 'lost']) {
    const rows = F.notes.filter((note) => note[1] === kind).map((note) => ({ row: note[0], t: F.t[note[0]], note }));
    if (rows.length) M.lanes.push({ group: 'laneNotes', title: kind, kind: 'notes', items: rows });
  }
}
const kindWord = (kind) => w(kind === 'lost' ? 'lostKind' : kind);
const noteText = (note) => note[language];

// Where the keys stop: steps, faults, changes of state; not each frame.
const stops = new Set();
for (const l of M.lanes) if (l.kind !== 'requests' && l.kind !== 'notes') for (const item of l.items) if (item.t >= 0) { stops.add(item.t); if (item.tone === 'fault' && item.end < M.until) stops.add(item.end); }
M.stops = [...stops].sort((a, b) => a - b);
const at = (list, t) => list.filter((s) => s.t <= t && t < s.end);
function firstAfter(sorted, t) {
  let low = 0, high = sorted.length;
  while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] < t) low = middle + 1; else high = middle; }
  return low;
}

// The verdict, the steps, how to run it again.
function drawSummary() {
  const R = D.result;
  document.documentElement.lang = language;
  document.title = `${R.name}: ${w(R.verdict)}`;
  byId('name').textContent = R.name;
  const badge = byId('verdict');
  badge.textContent = w(R.verdict);
  badge.className = 'badge ' + R.verdict;
  byId('title').textContent = D.title || '';
  byId('text').textContent = R.summary || '';
  byId('reason').textContent = R.reason || '';
  byId('reason').hidden = !R.reason;
  const dumps = R.coreDumps || [];
  byId('dumps').hidden = !dumps.length;
  put(clear(byId('dumps')), {}, dumps.map((d) => el('li', {},
    el('button', { class: 'link', onclick: () => choose(d.atSeconds, 'dumps') }, seconds(d.atSeconds)),
    ` ${d.node}: ${d.program}${d.of && d.of !== d.program ? ` (${d.of})` : ''} ${d.pid}: ${d.signal}. ${w('coreFile')}: ${d.core || d.whyNoCore || ''}`,
    d.log && d.log.length > 0 && el('pre', {}, d.log.join('\n')))));
  const facts = [
    ['kernel', R.kernel], ['seed', R.seed], R.run > 1 && ['run', R.run], R.attempts > 1 && ['attempts', R.attempts],
    ['duration', seconds(R.durationSeconds, 1)], ['setup', seconds(R.setupSeconds, 1)], ['lateness', number(R.latenessMs, 1) + ' ms'],
    R.startedUnixNs > 0 && ['started', new Date(R.startedUnixNs / 1e6).toLocaleString(language, { timeZone: 'UTC', timeZoneName: 'short' })],
    F && ['recorded', number(F.recorded, 0)], F && ['lost', number(F.ends.reduce((sum, end) => sum + end.dropped, 0), 0)],
  ].filter(Boolean);
  put(clear(byId('facts')), {}, facts.map(([key, value]) => el('div', {}, el('dt', {}, w(key)), el('dd', {}, String(value)))));
  for (const node of document.querySelectorAll('[data-t]')) node.textContent = w(node.dataset.t);
  const nav = clear(byId('nav'));
  nav.setAttribute('aria-label', w('sections'));
  for (const section of document.querySelectorAll('main > section')) nav.append(el('a', { href: '#' + section.id }, w(section.id)));
  byId('againText').textContent = D.again.join('\n');
  byId('made').textContent = w('made', { version: D.version }) + (R.startedUnixNs > 0 || !R.steps.length ? '' : ' ' + w('noTime'));
}

function drawSteps() {
  const rows = (D.result.steps || []).map((step) => {
    const findings = step.judged.flatMap((judged) => judged.findings.map((f) => ({ ...f, kind: judged.kind })));
    const worst = findings.some((f) => f.verdict !== 'passed');
    const more = findings.length > 0 && el('details', { open: worst },
      el('summary', {}, `${findings.length}`),
      findings.map((f) => el('div', { class: 'finding ' + f.verdict }, el('p', {}, el('b', {}, `${w(f.verdict)} · ${w('wanted')}: `), f.wanted), el('p', {}, el('b', {}, w('seen') + ': '), f.seen))));
    return el('tr', { class: step.verdict },
      el('td', {}, el('button', { class: 'link', onclick: () => choose(step.atSeconds, 'steps') }, seconds(step.atSeconds))),
      el('td', { class: 'number' }, seconds(step.durationSeconds)),
      el('td', {}, step.name, el('span', { class: 'dim' }, ' ' + step.action)),
      el('td', {}, el('span', { class: 'badge small ' + step.verdict }, w(step.verdict))),
      el('td', { class: 'number' }, number(step.latenessMs, 1) + ' ms'),
      el('td', {}, more || ''));
  });
  const heads = ['began', 'took', 'step', 'verdict', 'late', 'seen'].map((key) => el('th', { scope: 'col' }, w(key)));
  put(clear(byId('stepTable')), {}, [el('table', { class: 'list' }, el('thead', {}, el('tr', {}, heads)), el('tbody', {}, rows))]);
}

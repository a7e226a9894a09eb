// Everything is drawn once, and again in another language.
function drawAll() {
  drawSummary(); drawMoment(); drawTopology(); drawZoom(); drawLanes(); drawPlots(); drawSteps(); drawFrameFilters(); filterFrames(); drawTables(); drawManifests(); drawLogs();
}
onMoment(() => { showMoment(); followMoment(); drawTopology(); });
onMoment(framesFollow);
view.a = M.from; view.b = M.until;
// It begins where something goes wrong, else where something is broken.
const bad = (D.result.steps || []).find((step) => step.verdict !== 'passed');
moment.t = bad ? bad.atSeconds : M.faults.length ? Math.min(M.faults[0].t + 0.001, M.until) : M.from;
byId('language').value = language;
byId('language').addEventListener('change', (event) => { language = event.target.value; drawAll(); framesFollow('language'); });
drawAll();
listenToLanes();
listenToFrames();
framesFollow('start');
// Paper has its own width (the style sheet says the same), and nothing on it can be opened.
window.addEventListener('beforeprint', () => {
  byId('lanes').style.width = '660px';
  drawLanes();
  printFrames();
  document.querySelectorAll('#about, #tableArea details, #manifestArea details').forEach((d) => { d.open = true; });
});
window.addEventListener('afterprint', () => { byId('lanes').style.width = ''; drawLanes(); });
document.documentElement.dataset.ready = 'yes';

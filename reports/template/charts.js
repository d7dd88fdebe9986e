// Vega charts: one shared bundle, unpacked when the first chart is wanted.

let bundle = null;
const drawn = []; // {box, chart, rows, view, width}

function loadBundle() {
  bundle ??= inflate("bundle").then((bytes) => {
    const script = document.createElement("script");
    script.textContent = text(bytes); // the policy knows its hash
    document.head.append(script);
    return window.eexitEmbed;
  });
  return bundle;
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink"), soft = style.getPropertyValue("--soft"), line = style.getPropertyValue("--line");
  const category = isDark() ? ["#9ca3af", "#4ba3e3", "#f28e4b", "#3fbf97", "#df8abf", "#c9b94a"] : THEME.range.category;
  return {
    ...THEME,
    range: { ...THEME.range, category },
    axis: { ...THEME.axis, labelColor: soft, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft },
    legend: { ...THEME.legend, labelColor: ink, titleColor: ink },
    rule: { color: soft },
  };
}

// A figure with heading, chart, caption and the table that says the same.
function figure(chart) {
  const box = h("div.chart");
  const entry = { box, chart, rows: chart.table.rows, view: null, width: 0 };
  const choice = chart.choice && chart.choice.values.length > 1 ? chooser(entry) : null;
  if (chart.choice) entry.rows = chosen(chart, chart.choice.first);
  drawn.push(entry);
  const details = h("details", {}, h("summary", {}, "Table"));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(twin(chart.title, chart.table));
  });
  return h(chart.wide ? "figure.wide" : "figure", { "data-chart": chart.key },
    h("h2", {}, chart.title), choice, box, h("figcaption", {}, chart.caption), details);
}

function chooser(entry) {
  const { label, values, first } = entry.chart.choice;
  const options = values.map((k) => h("option", { value: k, selected: k === first }, String(k)));
  const onchange = (event) => { entry.rows = chosen(entry.chart, +event.target.value); draw(entry, true); };
  return h("label", {}, label + " ", h("select", { onchange }, ...options));
}

const chosen = (chart, k) => chart.table.rows.filter((row) => row.kl_factor === null || row.kl_factor === k);

async function draw(entry, again = false) {
  const width = Math.floor(entry.box.clientWidth);
  if (!entry.box.isConnected || !width || (width === entry.width && !again)) return;
  entry.width = width;
  const embed = await loadBundle();
  // A numeric width: "container" gives an empty chart, and no error, in an element that isn't shown.
  const spec = { ...entry.chart.spec, datasets: { rows: entry.rows }, config: theme(), width, autosize: { type: "fit-x", contains: "padding" } };
  if (entry.view) entry.view.finalize();
  const actions = { export: true, source: false, compiled: false, editor: false };
  const options = { mode: "vega-lite", ast: true, renderer: "canvas", actions, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
  const result = await embed(entry.box, spec, options);
  entry.view = result.view;
  const canvas = entry.box.querySelector("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", entry.chart.spec.description);
  entry.box.dataset.ink = (await result.view.toImageURL("png")).length;
}

// Let go of the charts of the page that was left.
function forgetCharts() {
  for (const entry of drawn.splice(0)) {
    if (entry.box.isConnected) drawn.push(entry);
    else if (entry.view) entry.view.finalize();
  }
}

const redraw = (again) => drawn.forEach((entry) => draw(entry, again));

const watcher = new ResizeObserver(() => redraw(false));

// Vega charts. They share one bundle of libraries, which is decompressed when the first chart is drawn.

let bundle = null;
let picked = ""; // key of the configuration highlighted in every chart
let paper = 0; // the width of the paper in pixels while the page is printed, otherwise 0
const drawn = []; // {chart, variant, slice, box, view, width}

function loadBundle() {
  bundle ??= inFile("bundle").then((bytes) => {
    const script = document.createElement("script");
    script.textContent = text(bytes); // the content security policy allows its hash
    document.head.append(script);
    return window.eexitEmbed;
  });
  return bundle;
}

const NARROW = 450;
const ENTRY_PIXELS = 140; // of a legend

function coloursOf(...names) {
  const style = getComputedStyle(document.documentElement);
  return names.map((name) => style.getPropertyValue(`--${name}`).trim());
}

function theme(width) {
  const [paper, ink, soft, line] = coloursOf("paper", "ink", "soft", "line");
  return {
    ...THEME,
    background: paper,
    range: isDark() ? DARK : THEME.range,
    text: { color: ink },
    axis: { ...THEME.axis, labelColor: soft, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft },
    // In a narrow plot, a centred title would extend beyond the picture.
    axisX: width < NARROW ? { titleAnchor: "end", titleAlign: "right", titleLimit: width } : {},
    legend: {
      ...THEME.legend,
      columns: Math.max(3, Math.floor(width / ENTRY_PIXELS)),
      ...(width < NARROW ? { layout: { anchor: "end", direction: "vertical" } } : {}),
      ...(width >= NARROW && Object.keys(DATA.rules).length > 4 ? { layout: { direction: "vertical" } } : {}),
      labelColor: ink,
      titleColor: ink,
      symbolBaseFillColor: ink,
      symbolBaseStrokeColor: ink,
    },
    rule: { color: soft },
    // For full depth, and around the chosen setting.
    style: { ring: { color: ink, stroke: ink, opacity: 1 } },
  };
}

// Returns the rows, with each series' label at its rightmost point.
function withLabels(rows, { x, y }) {
  const last = new Map();
  for (const row of rows)
    if (isNumber(row[x]) && isNumber(row[y]) && !(last.get(row.series)?.[x] >= row[x])) last.set(row.series, row);
  return rows.map((row) => ({ ...row, label: last.get(row.series) === row ? shortOf(row.series) : "" }));
}

const ANCHORS = ["right", "top", "bottom", "left", "top-right", "bottom-right", "top-left", "bottom-left"],
  OFFSETS = [3, 8, 14]; // pixels; farther off, a label would seem to belong to another point

// Returns labels for the points in a chart's layer "labelled" (`LABELLED` of reports/shared/charts.py). Vega places each where
// it covers no label, point, line or ring, and leaves out labels without room. It can avoid only layers that have rows.
function labelled(vega, rows, axes) {
  const points = "labelled_marks";
  if (!vega.marks.some(({ name }) => name === points)) return vega;
  const isDrawn = (row) => isNumber(row[axes.x]) && isNumber(row[axes.y]),
    exits = rows.filter((row) => row.rule !== null && isDrawn(row));
  const known = [
    ...(rows.some((row) => row.rule === null && isDrawn(row)) ? ["full_depth", "full_depth_text"] : []),
    ...(exits.some((row) => row.chosen) ? ["chosen"] : []),
    ...(exits.length ? ["lines", "even"] : []),
  ];
  const isKnown = (name) => known.some((each) => name === `${each}_marks` || name === `${each}_pathgroup`),
    others = vega.marks.map(({ name }) => name).filter(isKnown);
  const text = "datum.datum.label && datum.datum.label + (datum.datum.looping ? ' ↻' : '')";
  const font = { font: { value: THEME.font }, fontSize: { value: 11.5 }, fontWeight: { value: 600 } };
  const labels = (look) => ({
    type: "text",
    from: { data: points },
    interactive: false,
    aria: false,
    encode: { update: { text: { signal: text }, ...font, ...look } },
    transform: [
      {
        type: "label",
        size: { signal: "[width, height]" },
        anchor: OFFSETS.flatMap(() => ANCHORS),
        offset: OFFSETS.flatMap((offset) => ANCHORS.map(() => offset)),
        avoidMarks: others,
      },
    ],
  });
  const halo = labels({ stroke: { value: coloursOf("paper")[0] }, strokeWidth: { value: 4 } }),
    words = labels({ fill: { signal: "datum.stroke && datum.stroke !== 'transparent' ? datum.stroke : datum.fill" } });
  return { ...vega, marks: [...vega.marks, halo, words] };
}

// Returns the y axis from 0 on, or fitted to the points. Bars that are cut off at the edges ("bars") don't count.
function withScale(vega, isWhole) {
  const isCut = vega.marks.some(({ name }) => name === "bars_marks"),
    isEnd = ({ field }) => /_(low|high)$/.test(field);
  const change = (scale) => {
    if (scale.name !== "y" || !isFitted(scale)) return scale;
    const { fields } = scale.domain;
    if (isCut && fields) scale = { ...scale, domain: { ...scale.domain, fields: fields.filter((of) => !isEnd(of)) } };
    return { ...scale, zero: isWhole };
  };
  return { ...vega, scales: vega.scales.map(change) };
}

const isFitted = ({ type, zero }) => type === "linear" && zero === false;

// True if a chart's y axis needn't begin at 0.
const canFit = ({ spec }) =>
  (spec.layer ?? [spec]).some(({ encoding }) => encoding?.y?.scale && isFitted(encoding.y.scale));

// Returns a figure: heading, chart, caption and a table of the numbers. A chart is as in reports/shared/figures.py, or
// {key, title, id, caption, variants, heading, controls, table or twin(), rows()}.
function figure(chart) {
  const box = h("div.chart"),
    labels = chart.variants.map(({ label }) => label),
    values = chart.slice ? chart.slice.values : [];
  const last = (key, names, first) => names.indexOf(choiceOf(`${chart.key}.${key}`, names, names[first]));
  const entry = {
    chart,
    variant: last("variant", labels, 0),
    slice: chart.slice ? last("slice", values, chart.slice.first) : 0,
    box,
    view: null,
    width: 0,
  };
  box.style.minHeight = `${heights[chart.key] ?? 0}px`; // so that a reader's scroll position can be restored
  drawn.push(entry);
  const select = (label, key, names) =>
    !label || names.length < 2
      ? null
      : chooser(label, names.map(inMenu), names[entry[key]], (name) => {
          entry[key] = names.indexOf(name);
          choose(`${chart.key}.${key}`, name);
          entry.update();
        });
  const choices = [select(chart.choice, "variant", labels), chart.slice && select(chart.slice.label, "slice", values)];
  const makeTwin = () =>
    chart.twin
      ? chart.twin()
      : twin(chart.title + (chart.slice ? ` · ${chart.slice.label} ${chart.slice.values[entry.slice]}` : ""), {
          columns: chart.table.columns,
          rows: rowsOf(entry),
        });
  const details = unfold(h("details", h("summary", "Table")), () => [makeTwin()]);
  const caption = h("figcaption", ...selectionWords(chart), chart.caption);
  const zero = `${chart.key}.zero`,
    flip = () => {
      choose(zero, !choice(zero, false));
      entry.update();
    };
  const whole = (chart.canFit ?? chart.variants.some(canFit)) && toggle("from 0", () => choice(zero, false), flip);
  const controls = [...choices, ...(chart.controls || []), whole].filter(Boolean);
  entry.update = () => {
    caption.replaceChildren(...selectionWords(chart), chart.caption);
    if (details.open) details.replaceChildren(details.firstChild, makeTwin());
    return draw(entry, true);
  };
  chart.update = entry.update;
  return h(
    chart.wide ? "figure.wide" : "figure",
    { "data-chart": chart.key },
    h(chart.heading ?? "h2", chart.id ? { id: chart.id, tabindex: -1 } : {}, chart.title),
    controls.length ? h("div.row", ...controls) : null,
    box,
    caption,
    h(
      "div.below",
      details,
      h(
        "span.saves",
        ...["png", "svg"].map((type) => saveButton(chart.title, type, () => saveImage(entry, type))),
        ...["csv", "json"].map((type) => saveButton(chart.title, type, () => saveRows(entry, type))),
      ),
    ),
  );
}

// Returns the rows of the chosen slice, and the rows of no slice, such as those of normal.
function rowsOf({ chart, slice }) {
  if (chart.rows) return ofSelection(chart, chart.rows());
  const { rows } = chart.table,
    { key, values } = chart.slice || {};
  return ofSelection(chart, key ? rows.filter((row) => row[key] === null || row[key] === values[slice]) : rows);
}

async function draw(entry, again = false) {
  const { chart, box } = entry;
  if (!box.isConnected) return;
  const isEmpty = !rowsOf(entry).length; // such a chart would have only axes, and Vega warns about them
  box.parentElement.classList.toggle("empty", isEmpty);
  const width = paper || Math.floor(box.clientWidth);
  if (isEmpty || !width || (width === entry.width && !again)) return;
  entry.width = width;
  const embed = await loadBundle();
  const variant = chart.variants[entry.variant];
  const rows = variant.axes ? withLabels(rowsOf(entry), variant.axes) : rowsOf(entry);
  const isWhole = choice(`${chart.key}.zero`, false);
  // The width is a number, since "container" gives an empty chart without an error in an element that isn't shown.
  const spec = {
    ...variant.spec,
    params: [{ name: "picked", value: picked }],
    datasets: { rows },
    config: theme(width),
    width,
    autosize: { type: "fit-x", contains: "padding" },
  };
  const options = {
    mode: "vega-lite",
    ast: true,
    renderer: "canvas",
    actions: false,
    patch: (vega) => labelled(withScale(vega, isWhole), rows, variant.axes),
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true, formatTooltip: inTooltip },
    // Vega warns about layers without rows, such as those that the reader has turned off.
    ...(variant.axes ? { logLevel: 1 } : {}),
  };
  const { view } = await embed(box, withHeight(spec, rows), options);
  if (entry.view) entry.view.finalize();
  entry.view = view;
  view.addEventListener("click", (_, item) => {
    if (configurationOf(item?.datum?.configuration)) location.hash = everywhere(item.datum.configuration);
  });
  view.addEventListener("pointerover", (_, item) => pick(item?.datum?.configuration || ""));
  const canvas = box.querySelector("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", variant.spec.description);
  box.style.minHeight = "";
  heights[chart.key] = box.offsetHeight;
}

// Returns a tooltip as HTML, without unknown values, which Vega writes as "null".
function inTooltip(told) {
  const rows = Object.entries(told)
    .filter(([, value]) => value !== null && value !== "null")
    .map((pair) => pair.map((part) => String(part).replace(/&/g, "&amp;").replace(/</g, "&lt;")));
  return `<table>${rows.map(([key, value]) => `<tr><td class="key">${key}</td><td>${value}</td></tr>`).join("")}</table>`;
}

const FLAT = 200; // height in pixels of a chart on paper; higher ones would often leave half a page empty

// Returns the specification with its height in pixels, since Vega warns about a height per row with a fitted width. Names that
// would take more than a third of a narrow plot are above their rows.
function withHeight(spec, rows) {
  if (!spec.height?.step) return paper ? { ...spec, height: FLAT } : spec;
  const layers = spec.layer ?? [spec],
    named = layers.map(({ encoding }) => encoding.y?.field).find(Boolean),
    names = [...new Set(rows.map((row) => row[named]))];
  const longest = Math.max(...names.map((name) => String(name).length)) * LETTER_PIXELS,
    above = spec.width < NARROW && longest > spec.width / 3;
  const height = Math.max(1, names.length) * (spec.height.step + (above ? NAME_PIXELS : 0));
  return { ...spec, ...(above ? withNamesAbove(layers, spec) : {}), height };
}

const LETTER_PIXELS = 6.5, // average width of a letter in a row's name
  NAME_PIXELS = 17; // the height of a name above its row

function withNamesAbove(layers, { layer, height: { step }, width }) {
  const changed = layers.map(({ encoding: { y, ...others }, ...rest }) => {
    if (!y?.scale) return { ...rest, encoding: { ...others, ...(y ? { y } : {}) } };
    const band = step * (1 - y.scale.paddingInner),
      padding = 1 - band / (step + NAME_PIXELS);
    const place = { labelAlign: "left", labelBaseline: "bottom", labelPadding: 0, labelOffset: -band / 2 - 1 };
    const axis = { ...y.axis, ...place, labelLimit: width, ticks: false, domain: false };
    return {
      ...rest,
      encoding: {
        ...others,
        y: { ...y, axis, scale: { ...y.scale, paddingInner: padding, paddingOuter: padding / 2 } },
      },
    };
  });
  return layer ? { layer: changed } : changed[0];
}

// Highlights one configuration in every chart; "": none.
function pick(key) {
  if (key === picked) return;
  picked = key;
  for (const { view } of drawn) if (view) view.signal("picked", key).runAsync();
}

// Releases the charts of the previous page.
function forgetCharts() {
  picked = "";
  for (const entry of drawn.splice(0)) {
    if (entry.box.isConnected) drawn.push(entry);
    else if (entry.view) entry.view.finalize();
  }
}

const redraw = (again) => Promise.all(drawn.map((entry) => draw(entry, again)));

// The heat map: one number of every run, prompts × configurations.

// A heat map of prompts × configurations that shows one metric at a time.
function heatmap() {
  const names = DATA.metrics.map(({ key }) => key),
    usual = ["disagreement", "mean_depth"].find((name) => names.includes(name)) ?? names[0],
    keys = DATA.configurations.map(({ key }) => key);
  const state = {
    metric: metricAt(choiceOf("heat.metric", names, usual)),
    by: choiceOf("heat.by", ["", ...keys]),
  };
  const change = (key, read) => (value) => {
    state[key] = read(value);
    choose(`heat.${key}`, value);
    chart.update();
  };
  const ordered = () =>
    sorted(DATA.prompts, (prompt) => (state.by ? meanOf(runsOf(prompt, state.by), state.metric) : 0), true);
  const chart = {
    key: "heat",
    title: "Prompts by configurations",
    heading: "h4.hidden",
    caption:
      "One cell per prompt and configuration" +
      (DATA.seeds.length > 1 ? ", the mean of its seeds" : "") +
      ". ✕: failed. A click opens the run.",
    wide: true,
    variants: [{ spec: DATA.heat }],
    controls: [
      chooser(
        "Metric",
        DATA.metrics.map(({ key, label }) => [key, label]),
        names[state.metric],
        change("metric", metricAt),
        "heat-metric",
      ),
      chooser(
        "Order by",
        [["", "prompt"], ...keys],
        state.by,
        change("by", (key) => key),
        "heat-by",
      ),
    ],
    rows: () =>
      ordered().flatMap((prompt, order) =>
        DATA.configurations.flatMap(({ key, mark }) => heatRow(prompt, key, mark, order, state.metric)),
      ),
    prepare: (spec, rows, width) => shade(spec, rows, width, DATA.metrics[state.metric]),
    open: ({ prompt, configuration }) => {
      const runs = runsOf(DATA.prompts[prompt], configuration);
      location.hash = address(DATA.prompts[prompt], runs.find((run) => run.status === "ok") || runs[0]);
    },
    twin: () => heatTable(ordered(), state.metric),
    drawn: keepLabels,
    csv: () =>
      chart.rows().map(({ prompt, configuration, value, failed }) => ({
        prompt_id: DATA.prompts[prompt].id,
        configuration,
        [DATA.metrics[state.metric].key]: value,
        failed,
      })),
  };
  return figure(chart);
}

const runsOf = (prompt, key) => prompt.runs.filter((run) => DATA.configurations[run.c].key === key);

// The mean of a metric over the runs that succeeded, geometric for perplexity; null if there are none.
function meanOf(runs, metric) {
  const [into, back] = DATA.metrics[metric].geometric ? [Math.log, Math.exp] : [(value) => value, (value) => value];
  const values = runs
    .filter((run) => run.status === "ok")
    .map((run) => run.m[metric])
    .filter((value) => value !== null);
  return values.length ? back(values.reduce((sum, value) => sum + into(value), 0) / values.length) : null;
}

function heatRow(prompt, key, mark, order, metric) {
  const runs = runsOf(prompt, key),
    value = meanOf(runs, metric),
    failed = runs.some((run) => run.status !== "ok");
  if (!runs.length) return [];
  const words = [value === null ? null : form(value, DATA.metrics[metric].form), failed ? "failed" : null]
    .filter(Boolean)
    .join(", ");
  return [
    {
      prompt: DATA.prompts.indexOf(prompt),
      name: promptName(prompt, 36),
      configuration: key,
      shown_as: key + mark,
      order,
      value,
      failed,
      words,
    },
  ];
}

// The colours span the 2nd to the 98th percentile, so that one outlier doesn't make all other cells look alike. A
// narrow chart labels prompts by their ids alone, and writes the names of configurations vertically.
function shade(spec, rows, width, metric) {
  const values = rows
    .map((row) => row.value)
    .filter((value) => value !== null)
    .sort((a, b) => a - b);
  const [cells, crosses] = spec.layer,
    narrow = width < NARROW;
  const domain = [values[Math.floor(values.length * 0.02)] ?? 0, values[Math.ceil(values.length * 0.98) - 1] ?? 1];
  const { color } = cells.encoding,
    legend = {
      ...color.legend,
      title: metric.label,
      format: ["share", "right"].includes(metric.form) ? ".0%" : "~g",
      gradientLength: narrow ? 150 : 240,
    };
  const axes = ({ encoding: { x, y, ...others }, ...layer }) => ({
    ...layer,
    encoding: {
      ...others,
      x: {
        ...x,
        axis: {
          ...x.axis,
          labelAngle: narrow ? -90 : x.axis.labelAngle,
          labelOverlap: (width - (narrow ? 60 : 320)) / DATA.configurations.length < 13,
        },
      },
      y: { ...y, axis: { ...y.axis, ...(narrow ? { labelExpr: "split(datum.label, ' ')[0]" } : {}) } },
    },
  });
  const coloured = {
    ...cells,
    encoding: { ...cells.encoding, color: { ...color, legend, scale: { ...color.scale, domain } } },
  };
  return {
    ...spec,
    padding: { ...spec.padding, right: narrow ? 5 : spec.padding.right },
    height: { step: DATA.prompts.length > 60 ? 12 : 20 },
    layer: [axes(coloured), axes(crosses)],
  };
}

// Keep the names of the columns visible while the reader scrolls: a copy of that part of the picture sticks to the top.
function keepLabels(view, box) {
  const picture = box.querySelector("canvas"),
    finer = picture.width / picture.clientWidth;
  const axes = view.scenegraph().root.items[0].items.filter(({ role }) => role === "axis");
  const bottom = view.origin()[1] + view.padding().top,
    first = Math.floor((bottom + Math.min(0, ...axes.map(({ bounds }) => bounds.y1))) * finer);
  const copy = h("canvas", { width: picture.width, height: Math.ceil(bottom * finer) - first });
  copy.style.width = `${picture.clientWidth}px`;
  copy.getContext("2d").drawImage(picture, 0, -first);
  const over = h("div.above", { "aria-hidden": "true" }, copy);
  over.style.top = `${first / finer}px`;
  box.append(over);
}

function heatTable(prompts, metric) {
  const columns = [
    {
      label: "Prompt",
      text: true,
      value: (prompt) => prompt.id,
      show: (prompt) => h("a", { href: address(prompt) }, promptName(prompt, 60)),
    },
    ...DATA.configurations.map(({ key, mark }) => ({
      label: key + mark,
      value: (prompt) => meanOf(runsOf(prompt, key), metric),
      show: (prompt) => {
        const runs = runsOf(prompt, key),
          value = meanOf(runs, metric);
        if (!runs.length) return "";
        return h(
          value === null ? "a.bad" : "a",
          { href: address(prompt, runs[0]), title: `${key} on prompt ${prompt.id}` },
          value === null ? "✕" : form(value, DATA.metrics[metric].form),
        );
      },
    })),
  ];
  return table(`${DATA.metrics[metric].label}, prompts by configurations`, columns, prompts);
}

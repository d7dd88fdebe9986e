// The heat map: one number of every run, prompts × configurations, as a table whose cells are coloured by it.

function heatmap() {
  const names = DATA.metrics.map(({ key, label }) => [key, label]),
    usual = ["disagreement", "mean_depth"].find((key) => metricAt(key) >= 0);
  return h(
    "section.whole.heat",
    { "aria-label": "Prompts by configurations" },
    ...chosenBox("Metric", "heat.metric", names, heatTable, usual).filter(Boolean),
    h(
      "p.soft",
      `One cell per prompt and configuration${DATA.seeds.length > 1 ? ", the mean of its seeds" : ""}. ✕: failed. A click opens the run, and one on a heading sorts by it.`,
    ),
  );
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

// The colours span the 2nd to the 98th percentile, so that one outlier doesn't make all other cells look alike.
function heatTable(name) {
  const at = metricAt(name),
    metric = DATA.metrics[at];
  const cells = DATA.prompts.map((prompt) =>
    DATA.configurations.map(({ key }) => {
      const runs = runsOf(prompt, key),
        failed = runs.some(({ status }) => status !== "ok");
      return { prompt, key, runs, failed, value: meanOf(runs, at) };
    }),
  );
  const values = cells.flatMap((row) => row.map(({ value }) => value).filter(isNumber)).sort((a, b) => a - b),
    low = values[Math.floor(values.length * 0.02)],
    high = values[Math.ceil(values.length * 0.98) - 1];
  const show = ({ prompt, key, runs, failed, value }) => {
    if (!runs.length) return "";
    const run = runs.find(({ status }) => status === "ok") ?? runs[0],
      words = [value === null ? null : formed(value, metric.form), failed ? " ✕" : null];
    const link = h(
      failed ? "a.bad" : "a",
      { href: address(prompt, run), title: `${key} on prompt ${prompt.id}` },
      ...(words.some(Boolean) ? words : ["–"]),
    );
    const share = high > low ? (value - low) / (high - low) : 0;
    if (value !== null) link.style.setProperty("--share", Math.min(1, Math.max(0, share)));
    return link;
  };
  const columns = [
    {
      label: "Prompt",
      text: true,
      value: ([{ prompt }]) => DATA.prompts.indexOf(prompt),
      show: ([{ prompt }]) => h("a", { href: address(prompt) }, promptName(prompt, 36)),
    },
    ...DATA.configurations.map(({ key, mark }, c) => ({
      label: shortOf(key) + mark,
      title: key,
      value: (row) => row[c].value,
      show: (row) => show(row[c]),
    })),
  ];
  const records = () =>
    cells.flatMap((row) =>
      row
        .filter(({ runs }) => runs.length)
        .map(({ prompt, key, value, failed }) => ({
          prompt_id: prompt.id,
          configuration: key,
          [metric.key]: value,
          failed,
        })),
    );
  return table(`${metric.label}, prompts by configurations`, columns, cells, {
    name: "Prompts by configurations",
    records,
  });
}

// The overview (#/): what exiting early costs, averaged over prompts.

function overviewPage() {
  const { runs, different, failed, planned, prompts } = DATA.counts;
  const missing = planned && planned > runs ? ` of ${form(planned, "count")}` : "";
  const repeats = different < runs ? ` (${form(different, "count")} different)` : "";
  const page = [
    h("h1", {}, "What exiting early costs"),
    h(
      "div.row",
      {},
      provenance(`${form(runs, "count")}${missing} runs${repeats}${failed ? "" : ", none failed"}`),
      failed ? h("a.bad", { href: "#/fail" }, `${form(failed, "count")} failed`) : null,
      DATA.charts.length ? highlight() : null,
      DATA.quality ? qualityLink() : null,
      DATA.drafts ? draftsLink() : null,
      DATA.learned ? learnedLink() : null,
    ),
  ];
  if (missing)
    page.push(h("p", {}, `${form(planned - runs, "count")} runs haven't landed yet: this is a partial sweep.`));
  if (!runs) page.push(h("p", {}, "No run has landed yet."));
  else if (failed === different) page.push(h("p", {}, "Every run failed: there is nothing to average."));
  if (DATA.prompts.length < prompts) page.push(h("p", {}, held()));
  if (runs && DATA.configurations.every(({ mode }) => mode === DATA.normal || mode === DATA.draft)) {
    page.push(h("p", {}, `This sweep has only normal runs${DATA.drafts ? " and drafts" : ""}: nothing exits early.`));
  }
  if (runs && !DATA.configurations.some((configuration) => configuration.mode === DATA.normal)) {
    page.push(h("p", {}, "This sweep has no normal runs to compare with."));
  }
  page.push(
    h(
      "div.figures",
      {},
      DATA.findings.length ? findings(prompts) : null,
      ...DATA.charts.map((chart) => (chart.limit ? limited : figure)(chart)),
      ...(DATA.quality ? qualitySection() : []),
      DATA.prompts.length && DATA.metrics.length ? heatmap() : null,
      ...(DATA.drafts ? draftsSection() : []),
      ...(DATA.learned ? learnedSection() : []),
    ),
  );
  return page;
}

// A button that leads to a section further down.
const sectionLink = (id, label) =>
  h(
    "button.screen",
    {
      type: "button",
      onclick: () => {
        $(id).scrollIntoView();
        $(id).focus({ preventScroll: true });
      },
    },
    label,
  );

// The origin of the numbers, as one line that opens to all details.
function provenance(runs) {
  const facts = Object.fromEntries(DATA.facts);
  const line = [facts.Model, facts.Size, `${facts.Tokens} tokens`, runs].filter(Boolean).join(" · ");
  return h(
    "details.provenance",
    {},
    h("summary", {}, line),
    h("dl", {}, ...DATA.facts.flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)])),
  );
}

function findings(prompts) {
  const { level, least } = DATA.intervals;
  return h(
    "section",
    { "aria-label": "Findings" },
    h("h2", {}, "Findings"),
    h("ul", {}, ...DATA.findings.map((finding) => h("li", {}, finding))),
    meanings(),
    h(
      "p.soft",
      {},
      (prompts < least
        ? `Fewer than ${least} prompts are too few for intervals. `
        : `In brackets: ${100 * level}% intervals over prompts. `) +
        (DATA.timed ? "Intervals of realised savings are over rounds. " : "") +
        `Layers skipped: ${LAYERS_SKIPPED} ${DATA.timed ? "" : "No time was measured. "}${oracles()}`,
      h("a", { href: "#/methods" }, "What each number means"),
    ),
  );
}

const LAYERS_SKIPPED = "the layers after the exits, as a share of all, which is not what was saved.";

// A sentence about the rules that look at the final layer to decide, or "" if there are none.
function oracles() {
  const names = Object.keys(DATA.rules).filter((rule) => DATA.rules[rule].oracle),
    one = names.length === 1;
  if (!names.length) return "";
  return `${one ? "Rule" : "Rules"} ${names.join(", ")} ${one ? "looks" : "look"} at the final layer to decide, so ${one ? "it saves" : "they save"} nothing at run time. `;
}

const shortly = (definition) => definition.replace(/ \([^()]*\)$/, ""); // without the source, which is on the methods page

// Definitions of the sweep's modes and rules.
const meanings = () =>
  h(
    "dl.modes.soft",
    {},
    ...[
      ...Object.entries(DATA.modes).filter(([mode]) => mode !== DATA.normal),
      ...Object.entries(DATA.rules).map(([rule, { definition, mark }]) => [rule + mark, definition]),
    ].map(([name, does]) => h("div", {}, h("dt", {}, `${name}:`), h("dd", {}, `${shortly(does)}.`))),
  );

let most = choice("most", 5); // per cent
const MOST_NAMED = 4; // pairs of mode and rule in the answer

// A chart whose y axis has a limit that the reader chooses: a line marks it, and a text names the configurations that
// skip the most layers within it.
function limited(chart) {
  const { key, label, form: how } = chart.table.columns.find((column) => column.key === chart.limit),
    name = label.toLowerCase();
  const answer = h("output", { for: "most" }),
    said = () => answer.replaceChildren(...skipMost(chart.table, { key, form: how }, name));
  const input = h("input", {
    id: "most",
    type: "number",
    min: 0,
    max: 100,
    step: "any",
    value: most,
    oninput: () => {
      most = input.valueAsNumber;
      choose("most", most);
      said();
      copy.update();
    },
  });
  said();
  const line = (spec) => ({
    data: { values: [{ most: most / 100 }] },
    mark: { type: "rule", strokeDash: [5, 4], aria: false },
    encoding: { y: { field: "most", type: "quantitative", title: spec.layer[0].encoding.y.title } },
  });
  const highest = Math.max(...chart.table.rows.map((row) => row[`${key}_high`] ?? row[key]));
  const copy = {
    ...chart,
    controls: [h("label", {}, `Most layers skipped at a ${name} of at most `, input, " %"), answer],
    prepare: (spec) => (most / 100 <= highest ? { ...spec, layer: [line(spec), ...spec.layer] } : spec),
  };
  return figure(copy);
}

// For each mode and rule, up to MOST_NAMED of them, a sentence on the configuration that skips the most layers within the
// limit, sorted by layers skipped. Controls are left out, and so are configurations that write loops, which are counted.
function skipMost({ rows }, column, name) {
  if (!(most >= 0)) return ["Give a number from 0 to 100."];
  const known = rows.filter((row) => row.rule !== null && row.control_of === null && row[column.key] !== null),
    isWithin = (row) => row[column.key] <= most / 100,
    loops = known.filter((row) => row.looping && isWithin(row)).length,
    names = [...new Set(known.map((row) => row.series))];
  const skipped = { key: "layers_skipped", form: "share" };
  const best = names.map(
    (name) =>
      sorted(
        known.filter((row) => row.series === name && !row.looping && isWithin(row)),
        (row) => row.layers_skipped,
        true,
      )[0],
  );
  const within = sorted(best.filter(Boolean), (row) => row.layers_skipped, true);
  const found = within
    .slice(0, MOST_NAMED)
    .map((row) =>
      h(
        "span",
        {},
        configurationCell(row.configuration),
        ` would skip ${estimate(row, skipped)} of the layers, at a ${name} of ${estimate(row, column)} (n = ${row[`${column.key}_n`]}). `,
      ),
    );
  const none = names.filter((_, i) => !best[i]);
  const fewer = within.length - found.length;
  if (fewer > 0) found.push(`${fewer} more pairs of mode and rule would skip fewer. `);
  if (loops)
    found.push(
      `${form(loops, "count")} ${loops === 1 ? "configuration is" : "configurations are"} left out, whose text is mostly one loop, which full depth agrees with once it is there. `,
    );
  const other = loops ? "other " : "";
  if (none.length > MOST_NAMED)
    return [...found, `${none.length} pairs have no ${other}configuration with so low a ${name}.`];
  return none.length
    ? [...found, `No ${other}${none.join(`, no ${other}`)} configuration has so low a ${name}.`]
    : found;
}

const held = () =>
  `This file holds the texts and tokens of ${form(DATA.prompts.length, "count")} of ${form(DATA.counts.prompts, "count")} prompts; ` +
  "averages are over all of them. Which are held, and why, is on their pages; the command that builds the report takes others with --prompts and --ids.";

function highlight() {
  const options = DATA.configurations.map(({ key }) => h("option", { value: key }, key));
  return h(
    "p.screen",
    {},
    h(
      "label",
      {},
      "Highlight: ",
      h(
        "select",
        { id: "highlight", onchange: (event) => pick(event.target.value) },
        h("option", { value: "" }, "none"),
        ...options,
      ),
    ),
  );
}

// A heat map of prompts × configurations that shows one metric at a time.
function heatmap() {
  const wanted = [choice("heat metric"), "disagreement", "mean_depth"],
    by = choice("heat by", "");
  const metric =
    wanted.map((name) => DATA.metrics.findIndex(({ key }) => key === name)).find((place) => place >= 0) ?? 0;
  const state = { metric, by: DATA.configurations.some(({ key }) => key === by) ? by : "" };
  const select = (label, key, options) =>
    h(
      "label",
      {},
      `${label} `,
      h(
        "select",
        {
          id: `heat-${key}`,
          onchange: (event) => {
            state[key] = key === "by" ? event.target.value : +event.target.value;
            choose(`heat ${key}`, key === "by" ? state.by : DATA.metrics[state.metric].key);
            chart.update();
          },
        },
        ...options,
      ),
    );
  const ordered = () =>
    sorted(DATA.prompts, (prompt) => (state.by ? meanOf(runsOf(prompt, state.by), state.metric) : 0), true);
  const chart = {
    key: "heat",
    title: "Prompts by configurations",
    caption:
      "One cell per prompt and configuration" +
      (DATA.seeds.length > 1 ? ", the mean of its seeds" : "") +
      ". ✕: failed. A click opens the run.",
    wide: true,
    variants: [{ spec: DATA.specs.heat }],
    controls: [
      select(
        "Metric",
        "metric",
        DATA.metrics.map((m, i) => h("option", { value: i, selected: i === state.metric }, m.label)),
      ),
      select("Order by", "by", [
        h("option", { value: "" }, "prompt"),
        ...DATA.configurations.map(({ key }) => h("option", { value: key, selected: key === state.by }, key)),
      ]),
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

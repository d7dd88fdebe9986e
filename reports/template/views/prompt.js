// The pages of one prompt under every configuration (#/p/<id>), and of one configuration on every prompt
// (#/c/<configuration>).

async function promptPage(number) {
  const prompt = DATA.prompts[number];
  const cores = await coreOf(number);
  const neighbour = (other, label) => (other ? h("a", { href: address(other) }, label) : null);
  const page = [
    h("nav.trail", { "aria-label": "Where you are" }, h("a", { href: "#/" }, "Overview"), ` › Prompt ${prompt.id}`),
    h("h1", {}, `Prompt ${prompt.id}`),
    h("blockquote", { tabindex: 0, role: "group", "aria-label": "Prompt" }, ...visible(prompt.text)),
    ...(prompt.answer === null ? [] : [h("p", {}, "Expected answer: ", h("strong", {}, ...visible(prompt.answer)))]),
    h(
      "p.row",
      {},
      neighbour(DATA.prompts[number - 1], "← previous prompt"),
      neighbour(DATA.prompts[number + 1], "next prompt →"),
      prompt.why ? h("span.soft", {}, `Held because: ${prompt.why}.`) : null,
    ),
  ];
  if (!prompt.runs.length) return [...page, h("p", {}, "No run of this prompt has landed yet.")];
  page.push(
    runsTable(
      `Configurations on prompt ${prompt.id}`,
      prompt.runs.map((run) => ({
        prompt,
        run,
        name: runName(run),
        after: DATA.configurations[run.c].mark,
      })),
    ),
  );
  const rows = prompt.runs.map((run, i) => ({ run, tokens: cores[i] }));
  const recorded = rows.filter(({ tokens }) => tokens),
    counted = rows.filter(({ run }) => run.counts.some(Boolean));
  if (!recorded.length && prompt.runs.some((run) => run.n)) page.push(notThere(number));
  const figures = [recorded.length ? strip(prompt, recorded) : null, counted.length ? mix(prompt, counted) : null];
  return [...page, h("div.figures", {}, ...figures)];
}

const notThere = (number) => h("p.bad", {}, `Its tokens are in ${sideFile(number)}, which isn't next to this file.`);

function configurationsPage(key) {
  const runs = DATA.prompts.flatMap((prompt) =>
    runsOf(prompt, key).map((run) => ({
      prompt,
      run,
      name: promptName(prompt, 40) + ofSeed(run),
    })),
  );
  const chart = DATA.charts.find(({ key: name }) => name.startsWith("trade")) || DATA.charts[0];
  const row = chart?.table.rows.filter((found) => found.configuration === key);
  return [
    h("nav.trail", { "aria-label": "Where you are" }, h("a", { href: "#/" }, "Overview"), ` › ${key}`),
    h("h1", {}, `${key} on every prompt`),
    ...ruleOf(key),
    row?.length ? h("p.soft", {}, "Means over prompts") : null,
    row?.length
      ? numbers(chart.table.columns.slice(1).map((column) => [column.label, estimate(row[0], column)]))
      : null,
    h("h2", {}, "Prompts"),
    DATA.prompts.length < DATA.counts.prompts ? h("p", {}, held()) : null,
    runs.length
      ? runsTable(`Prompts under ${key}`, runs, "Prompt")
      : h("p", {}, "No run of this configuration has landed yet."),
  ].filter(Boolean);
}

// A sentence on a rule that looks at the final layer.
function ruleOf(key) {
  const { rule } = DATA.configurations.find((configuration) => configuration.key === key);
  return DATA.rules[rule]?.oracle ? [h("p.soft", {}, `Rule ${rule} is an oracle: ${ORACLE}.`)] : [];
}

// One row per {prompt, run, name}; \`after\` follows the link.
function runsTable(caption, rows, first = "Configuration") {
  const columns = [
    {
      label: first,
      text: true,
      value: ({ prompt, run }) => (first === "Prompt" ? DATA.prompts.indexOf(prompt) : run.c),
      show: ({ prompt, run, name, after }) => h("span", {}, h("a", { href: address(prompt, run) }, name), after),
    },
    {
      label: "Ended",
      text: true,
      value: ({ run }) => ending(run),
      show: ({ run }) => ending(run),
      look: ({ run }) => (run.status === "ok" ? null : "bad"),
    },
    ...DATA.metrics.map((metric, i) => ({
      label: metric.label,
      value: ({ run }) => run.m[i],
      show: ({ run }) => form(run.m[i], metric.form),
    })),
  ];
  return table(caption, columns, rows);
}

// Position × run, coloured by exit layer. A row of data is a stretch of tokens with one exit layer.
function strip(prompt, rows) {
  const stretches = rows.flatMap(({ run, tokens }, row) => {
    const found = [],
      naming = { row, name: runShown(run), configuration: DATA.configurations[run.c].key };
    for (let start = 0, i = 1; i <= tokens.n; i++) {
      if (i < tokens.n && tokens.rank[i] === tokens.rank[start]) continue;
      const layer = DATA.layers[tokens.rank[start]],
        last = i - 1,
        words = `${naming.name}, position ${start}${last > start ? `–${last}` : ""}: layer ${layer}`;
      found.push({ ...naming, layer, early: tokens.rank[start] !== DATA.final, start, end: i, last, words });
      start = i;
    }
    return found;
  });
  return figure({
    key: "strip",
    title: "Exit layer at every position",
    caption: "Each row is a run with its tokens from left to right; a click opens the text at that token.",
    wide: true,
    variants: [{ spec: DATA.specs.strip }],
    rows: () => stretches,
    open: ({ row, start, last }, event, view) => {
      const left = view.container().querySelector("canvas").getBoundingClientRect().left;
      const x = event.clientX - left - view.padding().left - view.origin()[0];
      const t = Math.min(last, Math.max(start, Math.floor(view.scale("x").invert(x))));
      location.hash = address(prompt, rows[row].run, { t });
    },
    twin: () =>
      table(
        "Where each run exits early",
        [
          {
            label: "Run",
            text: true,
            value: ({ run }) => run.c,
            show: ({ run }) => h("a", { href: address(prompt, run) }, runName(run)),
          },
          { label: "Tokens", value: ({ run }) => run.n, show: ({ run }) => form(run.n, "count") },
          {
            label: "Positions read at",
            text: true,
            look: () => "words prose",
            value: ({ run }) => run.n,
            show: ({ run }) => early(stretches.filter((s) => s.name === runShown(run))),
          },
        ],
        rows,
      ),
  });
}

const early = (stretches) =>
  stretches
    .filter((s) => s.early)
    .map((s) => `${s.start}${s.last > s.start ? `–${s.last}` : ""}: ${s.layer}`)
    .join(", ") || "none early";

function mix(prompt, rows) {
  const shares = rows.flatMap(({ run }) => {
    const n = run.counts.reduce((sum, count) => sum + count, 0);
    return run.counts.map((count, rank) => ({
      name: runShown(run),
      configuration: DATA.configurations[run.c].key,
      layer: DATA.layers[rank],
      rank,
      share: count / n,
      n,
    }));
  });
  return figure({
    key: "mix",
    title: "Layer mix",
    caption: "Share of decided tokens read at each layer; a click opens the run.",
    wide: true,
    variants: [{ spec: DATA.specs.mix }],
    rows: () => shares,
    open: ({ name }) => {
      location.hash = address(prompt, rows.find(({ run }) => runShown(run) === name).run);
    },
    twin: () =>
      table(
        "Decided tokens by exit layer",
        [
          {
            label: "Run",
            text: true,
            value: ({ run }) => run.c,
            show: ({ run }) => h("a", { href: address(prompt, run) }, runName(run)),
          },
          ...DATA.layers.map((layer, rank) => ({
            label: layer,
            value: ({ run }) => run.counts[rank],
            show: ({ run }) => form(run.counts[rank], "count"),
          })),
        ],
        rows,
      ),
  });
}

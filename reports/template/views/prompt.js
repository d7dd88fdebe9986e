// The pages of one prompt under every configuration (#/p/<id>), and of one configuration on every prompt
// (#/c/<configuration>).

async function promptPage(number) {
  const prompt = DATA.prompts[number];
  const cores = await coreOf(number);
  const neighbour = (other, label) => (other ? h("a", { href: address(other) }, label) : null);
  const page = [
    trail(`Prompt ${prompt.id}`),
    h("h1", `Prompt ${prompt.id}`),
    h("blockquote", { tabindex: 0, role: "group", "aria-label": "Prompt" }, ...visible(prompt.text)),
    ...(prompt.answer === null ? [] : [h("p", "Expected answer: ", h("strong", ...visible(prompt.answer)))]),
    h(
      "p.row",
      neighbour(DATA.prompts[number - 1], "← previous prompt"),
      neighbour(DATA.prompts[number + 1], "next prompt →"),
      prompt.why ? h("span.soft", `Held because: ${prompt.why}.`) : null,
    ),
  ];
  if (!prompt.runs.length) return [...page, h("p", "No run of this prompt has landed yet.")];
  const rows = prompt.runs.map((run, i) => ({ run, tokens: cores[i] }));
  if (!rows.some(({ tokens }) => tokens) && prompt.runs.some((run) => run.n)) page.push(notThere(number));
  const failed = rows.filter(({ run }) => run.status !== "ok");
  if (failed.length)
    page.push(
      h(
        "p.bad",
        `${failed.length} of ${rows.length} runs failed: `,
        ...failed.flatMap(({ run }, i) => [i ? ", " : "", h("a", { href: address(prompt, run) }, runName(run))]),
      ),
    );
  return [...page, writtenTexts(prompt, rows), promptNumbers(prompt, rows)];
}

const MOST_NAMES = 3, // of the settings that wrote a text, before the others are folded
  MOST_LETTERS = 700; // of a text, before the rest is left to its run's page

// What each setting wrote, equal texts once: full depth's first, then from the likest to it on.
function writtenTexts(prompt, rows) {
  const groups = new Map();
  for (const { run, tokens } of rows) {
    if (run.status !== "ok") continue;
    const text = textOf(run, tokens);
    if (!groups.has(text)) groups.set(text, { text, members: [] });
    groups.get(text).members.push({ run, tokens });
  }
  const isNormal = ({ run }) => DATA.configurations[run.c].mode === DATA.normal;
  const base = [...groups.values()].find(({ members }) => members.some(isNormal));
  const made = [...groups.values()].map((group) => ({
    ...group,
    from: base && group !== base ? firstDifference(base.text, group.text) : null,
  }));
  const ordered = [
    ...made.filter(({ text }) => text === base?.text),
    ...sorted(
      made.filter(({ text }) => text !== base?.text),
      ({ from }) => from ?? 0,
      true,
    ),
  ];
  const right = metricAt("correct"),
    baseRight = base && right >= 0 ? base.members.find(isNormal).run.m[right] : null;
  const lost = ({ members }) => baseRight === 1 && members.some(({ run }) => run.m[right] === 0);
  const box = h("div.written"),
    show = (all) =>
      box.replaceChildren(
        ...ordered
          .filter((group) => all || lost(group) || group.text === base?.text)
          .map((group) => saidBy(prompt, group)),
      );
  const filters = ["all texts", "right at full depth, wrong here"];
  const last = choice("prompt.texts", filters[0]);
  const canFilter = ordered.some(lost);
  show(!canFilter || last === filters[0]);
  return h(
    "section",
    { "aria-labelledby": "written" },
    h(
      "h2",
      { id: "written" },
      `What was written: ${form(groups.size, "count")} different text${groups.size === 1 ? "" : "s"}`,
    ),
    right >= 0 && prompt.answer !== null ? h("p", rightWords(rows, right)) : null,
    canFilter
      ? h(
          "div.row",
          chooser("Show", filters, last, (value) => {
            choose("prompt.texts", value);
            show(value === filters[0]);
          }),
        )
      : null,
    legend(),
    box,
  );
}

const rightWords = (rows, right) => {
  const marked = rows.filter(({ run }) => run.status === "ok" && run.m[right] !== null);
  return `Right: ${marked.filter(({ run }) => run.m[right] === 1).length} of ${marked.length} runs.`;
};

// A text with who wrote it, whether it is right, and where its tokens exit.
function saidBy(prompt, { text, members, from }) {
  const link = ({ run }) => h("a", { href: address(prompt, run) }, runShown(run)),
    named = members.slice(0, MOST_NAMES),
    others = members.slice(MOST_NAMES),
    n = new Set(members.map(({ run }) => run.c)).size;
  const who = h(
    "p.who-said",
    markOf(members[0].run),
    h("strong", n === 1 ? " One setting says this: " : ` ${n} settings say this: `),
    ...named.flatMap((member, i) => [i ? ", " : "", link(member)]),
    others.length ? ` and ${others.length} more` : null,
  );
  const strips = (some) => some.filter(({ tokens }) => tokens).map((member) => exitStrip(prompt, member));
  const more = h("details", h("summary", `${others.length} more and their exits`));
  unfold(more, () => strips(others));
  return h(
    "article.said-by",
    who,
    h("p.text", ...wholeText(text, from)),
    ...strips(named),
    others.length ? more : null,
  );
}

// A text with its first difference marked, in bold from there on.
function wholeText(text, from) {
  const end = Math.min(text.length, Math.max(MOST_LETTERS, (from ?? 0) + MOST_LETTERS / 2)),
    cut = from === null ? end : Math.min(from, end);
  return [
    ...spaced(text, 0, cut),
    from === null ? "" : h("span.differs", from < text.length ? "differs from here" : "ends here, full depth goes on"),
    cut < end ? h("strong", ...spaced(text, cut, end)) : "",
    end < text.length ? h("span.soft", ` … ${form(text.length - end, "count")} more letters`) : "",
  ];
}

// The exits of a run from left to right: the lower, the earlier, so that colours aren't all that tells layers apart. A
// click opens the run at that token.
function exitStrip(prompt, { run, tokens }) {
  const bars = stretchesOf(tokens).map(({ start, last, rank }) => {
    const bar = h(`span.c${rank}`);
    bar.style.flexGrow = String(last - start + 1);
    bar.style.height = `${Math.round(30 + (70 * rank) / DATA.final)}%`;
    return bar;
  });
  const early = tokens.rank.reduce((n, rank) => n + (rank !== DATA.final), 0);
  const strip = h(
    "a.exits",
    { href: address(prompt, run), "aria-label": `${runName(run)}: ${early} of ${tokens.n} tokens exit early` },
    ...bars,
  );
  strip.addEventListener("click", (event) => {
    const { left, width } = strip.getBoundingClientRect();
    if (!event.detail || !width) return;
    event.preventDefault();
    const t = Math.max(0, Math.min(tokens.n - 1, Math.floor(((event.clientX - left) / width) * tokens.n)));
    location.hash = address(prompt, run, { t });
  });
  return h(
    "div.exit-row",
    h("span.soft", { "aria-hidden": "true" }, `${runShown(run)} · ${early} of ${tokens.n} early`),
    strip,
  );
}

// Stretches of tokens that exit at one layer.
function stretchesOf(tokens) {
  const found = [];
  for (let start = 0, i = 1; i <= tokens.n; i++) {
    if (i < tokens.n && tokens.rank[i] === tokens.rank[start]) continue;
    found.push({ start, last: i - 1, rank: tokens.rank[start] });
    start = i;
  }
  return found;
}

// Tables and charts of the runs, which are made when they are asked for.
function promptNumbers(prompt, rows) {
  const details = h(
    "details.fold",
    { open: choice("prompt.numbers", false) },
    h("summary", h("h2", "Numbers and charts")),
  );
  const recorded = rows.filter(({ tokens }) => tokens),
    counted = rows.filter(({ run }) => run.counts.some(Boolean));
  details.addEventListener("toggle", () => choose("prompt.numbers", details.open));
  return unfold(details, () => [
    runsTable(
      `Configurations on prompt ${prompt.id}`,
      prompt.runs.map((run) => ({ prompt, run, name: runName(run), after: DATA.configurations[run.c].mark })),
    ),
    h("div.figures", recorded.length ? strip(prompt, recorded) : null, counted.length ? mix(prompt, counted) : null),
  ]);
}

const notThere = (number) => h("p.bad", `Its tokens are in ${sideFile(number)}, which isn't next to this file.`);

function configurationsPage(key) {
  const runs = DATA.prompts.flatMap((prompt) =>
    runsOf(prompt, key).map((run) => ({
      prompt,
      run,
      name: promptName(prompt, 40) + ofSeed(run),
    })),
  );
  const chart = DATA.trade || DATA.charts[0];
  const row = chart?.table.rows.filter((found) => found.configuration === key);
  return [
    trail(key),
    h("h1", `${key} on every prompt`),
    ...ruleOf(key),
    row?.length ? h("p.soft", "Means over prompts") : null,
    row?.length
      ? numbers(chart.table.columns.slice(1).map((column) => [column.label, estimate(row[0], column)]))
      : null,
    h("h2", "Prompts"),
    DATA.prompts.length < DATA.counts.prompts ? h("p", held()) : null,
    runs.length
      ? runsTable(`Prompts under ${key}`, runs, "Prompt")
      : h("p", "No run of this configuration has landed yet."),
  ].filter(Boolean);
}

// A sentence on a rule that looks at the final layer.
function ruleOf(key) {
  const { rule } = configurationOf(key);
  return DATA.rules[rule]?.oracle ? [h("p.soft", `Rule ${rule} is an oracle: ${ORACLE}.`)] : [];
}

// One row per {prompt, run, name}; \`after\` follows the link.
function runsTable(caption, rows, first = "Configuration") {
  const columns = [
    {
      label: first,
      text: true,
      value: ({ prompt, run }) => (first === "Prompt" ? DATA.prompts.indexOf(prompt) : run.c),
      show: ({ prompt, run, name, after }) => h("span", h("a", { href: address(prompt, run) }, name), after),
    },
    {
      label: "Ended",
      text: true,
      value: ({ run }) => ending(run),
      look: ({ run }) => (run.status === "ok" ? null : "bad"),
    },
    ...DATA.metrics.map((metric, i) => ({
      label: metric.label,
      value: ({ run }) => run.m[i],
      form: metric.form,
    })),
  ];
  return table(caption, columns, rows);
}

// Position × run, coloured by exit layer. A row of data is a stretch of tokens with one exit layer.
function strip(prompt, rows) {
  const stretches = rows.flatMap(({ run, tokens }, row) => {
    const naming = { row, name: runShown(run), configuration: DATA.configurations[run.c].key };
    return stretchesOf(tokens).map(({ start, last, rank }) => {
      const layer = DATA.layers[rank],
        words = `${naming.name}, position ${start}${last > start ? `–${last}` : ""}: layer ${layer}`;
      return { ...naming, layer, early: rank !== DATA.final, start, end: last + 1, last, words };
    });
  });
  return figure({
    key: "strip",
    title: "Exit layer at every position",
    heading: "h3",
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
          runColumn(prompt),
          { label: "Tokens", value: ({ run }) => run.n, form: "count" },
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

const runColumn = (prompt) => ({
  label: "Run",
  text: true,
  value: ({ run }) => run.c,
  show: ({ run }) => h("a", { href: address(prompt, run) }, runName(run)),
});

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
    heading: "h3",
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
          runColumn(prompt),
          ...DATA.layers.map((layer, rank) => ({
            label: layer,
            value: ({ run }) => run.counts[rank],
            form: "count",
          })),
        ],
        rows,
      ),
  });
}

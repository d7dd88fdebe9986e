// The overview (#/, or #/at/<section>): an answer first, then its evidence, then everything else, folded.

async function overviewPage() {
  const { runs, different, failed, planned, prompts } = DATA.counts;
  const missing = planned && planned > runs ? ` of ${form(planned, "count")}` : "";
  const repeats = different < runs ? ` (${form(different, "count")} different)` : "";
  const said = [];
  if (missing) said.push(`${form(planned - runs, "count")} runs aren't committed yet: this is a partial sweep.`);
  if (!runs) said.push("No run is committed yet.");
  else if (failed === different) said.push("Every run failed: there is nothing to average.");
  if (runs && DATA.configurations.every(({ mode }) => mode === DATA.normal || mode === DATA.draft))
    said.push(`This sweep has only normal runs${DATA.drafts ? " and drafts" : ""}: nothing exits early.`);
  if (runs && !DATA.configurations.some((configuration) => configuration.mode === DATA.normal))
    said.push("This sweep has no normal runs to compare with.");
  if (runs && prompts < DATA.intervals.least)
    said.push(`Fewer than ${DATA.intervals.least} prompts are too few for intervals.`);
  selection = DATA.prompts.length ? selectionOf() : null;
  const sections = overviewSections();
  return [
    h(
      "div.overview",
      contents(linksTo(sections)),
      h(
        "div.sections",
        h(
          "section.top",
          { "aria-labelledby": "verdict" },
          h("h1", { id: "verdict", tabindex: -1 }, "Does early exit pay here?"),
          h(
            "div.row.origin",
            origin(`${form(runs, "count")}${missing} runs${repeats}${failed ? "" : ", none failed"}`),
            failed ? h("a.bad", { href: "#/fail" }, failedWords()) : null,
          ),
          ...said.map((words) => h("p", words)),
          DATA.verdict ? verdictCard(DATA.verdict) : null,
          await textStrip(),
        ),
        ...sections.slice(1).map(({ nodes }) => nodes()),
      ),
    ),
  ];
}

// Returns the sections in order, each {id, label, nodes}; only those that the sweep has data for.
function overviewSections() {
  const drafts = DATA.drafts && !DATA.trade,
    mix = DATA.charts.find(({ key }) => key === "mix"),
    folds = foldedParts(),
    charted = (id, chart) => ({ id, label: chart.title, nodes: () => part(id, null, [figure({ ...chart, id })]) });
  return [
    { id: "verdict", label: "Verdict" },
    DATA.by_kind && charted("kinds", DATA.by_kind),
    DATA.certainty && charted("certainty", DATA.certainty),
    DATA.trade && {
      id: "quality",
      label: DATA.trade.title,
      nodes: () => part("quality", null, [tradeFigure(DATA.trade)]),
    },
    drafts && { id: "drafts", label: "Drafts", nodes: () => h("div.figures", ...draftsSection()) },
    DATA.settings && { id: "settings", label: "Which setting", nodes: settingsPart },
    DATA.trade && DATA.time && { id: "time", label: "Time", nodes: timePart },
    DATA.beside && { id: "beside", label: "Side by side", nodes: () => part("beside", null, [besideFigure()]) },
    DATA.prompts.length && DATA.configurations.length > 1 && { id: "runs", label: "Runs", nodes: runsPart },
    DATA.confident.length && { id: "confident", label: "Sure and wrong", nodes: confidentPart },
    mix && charted("mix", mix),
    folds.length && { id: "more", label: "Everything else", nodes: () => everythingElse(folds) },
  ].filter(Boolean);
}

// Returns the addresses and labels of sections and of some folded parts.
function linksTo(sections) {
  const apart = foldedParts().filter(({ id }) => ["drafts", "reasoning", "learned"].includes(id));
  return [...sections, ...apart.map(({ id, title }) => ({ id, label: title }))].map(({ id, label }) => [
    `#/at/${id}`,
    label,
  ]);
}

// Returns a list of the page's sections that stays in sight.
const contents = (links) =>
  h(
    "nav.contents",
    { "aria-label": "Contents" },
    h("ol", ...links.map(([href, label]) => h("li", h("a", { href }, label)))),
  );

// Goes to a section of this page, and opens it if it is folded.
function goTo(id) {
  const target = $(id);
  if (!target) return;
  const folded = target.closest("details");
  if (folded) folded.open = true;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}

const part = (id, title, children) =>
  h("section.part", { "aria-labelledby": id }, title ? h("h2", { id, tabindex: -1 }, title) : null, ...children);

// Returns the origin of the numbers, as one line that opens to all details.
function origin(runs) {
  const facts = Object.fromEntries(DATA.facts),
    line = [facts.Model, facts.Size, runs].filter(Boolean).join(" · ");
  return provenance(line, DATA.facts, DATA.prompts.length < DATA.counts.prompts ? h("p", held()) : null);
}

// Returns the number of failed runs, and the most frequent reason.
function failedWords() {
  const { failed, why } = DATA.counts,
    [reason, n] = why[0],
    others = why.length - 1;
  const more = others ? `; ${form(others, "count")} other reason${others > 1 ? "s" : ""}` : "";
  return `${form(failed, "count")} failed: ${shorten(reason, 60)}${others ? ` (${form(n, "count")})` : ""}${more} →`;
}

const LOOKS = { true: "yes", false: "no", null: "open" };

// Returns the verdict: the answer with its number and setting, how certain it is, and the reasons: the four cells of an
// assessment, and bars, each from one value to another. An assessment begins with machine and measurements.
function verdictCard({ answer, headline, sentences, where, pays, cause, cells, weights, about, setting, tables }) {
  const said = headline ? [headline, ...(setting ? [": ", wayTo(setting)] : [])] : linked(sentences[0]),
    ends = weights.flatMap(({ from, to }) => [from, to]),
    least = Math.min(0, ...ends),
    span = Math.max(0.01, ...ends) - least;
  const bars = weights.map(({ label, from, to, text: words, largest }) => {
    const bar = from === null ? null : h(`span.weight${largest ? ".largest" : ""}`);
    if (bar) {
      bar.style.marginLeft = `${(100 * (Math.min(from, to) - least)) / span}%`;
      bar.style.width = `${Math.max(1, (100 * Math.abs(to - from)) / span)}%`;
    }
    return h("li", h("span", termed(label)), h("span", bar), h("span", words));
  });
  return h(
    `div.verdict.${LOOKS[pays]}`,
    h(
      "div",
      where ? h("p.soft", where) : null,
      h("p.answer", h("strong", answer), " ", ...said),
      ...sentences.slice(headline ? 0 : 1).map((sentence) => h("p", ...linked(sentence))),
      tables.length
        ? h(
            "details",
            h("summary", "The assessment in numbers"),
            ...tables.flatMap(({ title, about: caption, table: rows }) => [h("p.soft", caption), twin(title, rows)]),
          )
        : null,
    ),
    bars.length || cause
      ? h(
          "div.why",
          h("p", h("strong", cause ?? "Why")),
          cells.length ? cellsTable(cells) : null,
          bars.length ? h("ul", ...bars) : null,
          about ? h("p.soft", about) : null,
        )
      : null,
  );
}

// What the oracle and the rule save and lose, in the exact KV cache and in the one that the mode leaves.
const cellsTable = ([heads, ...rows]) =>
  h(
    "table.cells",
    h("caption", "Saved if deciding were free"),
    h("thead", h("tr", ...heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td"))))),
    h(
      "tbody",
      ...rows.map(([label, ...cells]) =>
        h("tr", h("th", { scope: "row" }, label), ...cells.map((text) => h("td", text))),
      ),
    ),
  );

const wayTo = (key) => (configurationOf(key) ? h("a", { href: everywhere(key) }, `${key}\u00a0→`) : key);

// Returns a sentence with the names of configurations as links.
function linked(sentence) {
  const keys = DATA.configurations.map(({ key }) => key).filter((key) => key.includes("/"));
  const found = [];
  for (const word of sentence.split(/( )/)) {
    const key = keys.find((each) => word === each || word === `${each},` || word === `${each}.` || word === `${each}:`);
    if (key) found.push(h("a", { href: everywhere(key) }, key), word.slice(key.length));
    else if (typeof found.at(-1) === "string") found.push(found.pop() + word);
    else found.push(word);
  }
  return found;
}

function settingsPart() {
  const { about, table: rows } = DATA.settings;
  return part("settings", "Which setting may I use?", [h("p.soft", about), twin("Which setting may be used", rows)]);
}

// What was timed, a batch size at a time, beside what T(sequences, layers) allows.
function timePart() {
  const { about, table: timed, places: where, steps } = DATA.time;
  const nodes = [h("p.soft", about)];
  if (timed) {
    const at = (now) =>
      twin(`Time at ${now}`, { ...timed, rows: timed.rows.filter((row) => row.at === now) }, { page: 8 });
    nodes.push(...chosenBox("Measured at", "time.at", where, at));
  }
  for (const { where: machine, table: rows } of steps)
    nodes.push(
      h(
        "details",
        h("summary", `A step in milliseconds, by sequences and last layer: ${machine}`),
        twin("Milliseconds of a step", rows),
      ),
    );
  return part("time", "Time", nodes);
}

// Returns the folded parts, {id, title, build}, in the order of the page.
function foldedParts() {
  const chart = (key) => DATA.charts.filter((each) => each.key === key);
  // A lone chart has the heading of its fold.
  const figures = (charts) => () =>
    charts.map((each) => figure({ ...each, heading: charts.length > 1 ? "h4" : "h4.hidden" }));
  const ofCharts = (id, title, keys) => {
    const charts = keys.flatMap(chart);
    return charts.length ? { id, title, build: figures(charts) } : null;
  };
  return [
    ofCharts("dose", "Dose response", ["dose-exit_rate", "dose-mean_depth"]),
    ofCharts("depth", "Depth by token position", ["depth"]),
    DATA.numbers || DATA.trade ? { id: "numbers", title: "All numbers", build: allNumbers } : null,
    DATA.drafts && DATA.trade ? { id: "drafts", title: "Drafts", build: draftsSection } : null,
    DATA.reasoning ? { id: "reasoning", title: "Reasoning", build: reasoningSection } : null,
    DATA.learned
      ? { id: "learned", title: "Learned exits", build: () => studied("Learned exits", DATA.learned) }
      : null,
  ].filter(Boolean);
}

function everythingElse(folds) {
  const opened = choice("open", "").split(",");
  const remember = () => {
    const open = made.filter((details) => details.open);
    choose("open", open.length === made.length ? "all" : open.map(({ dataset }) => dataset.fold).join(","));
  };
  const made = folds.map(({ id, title, build }) => {
    const details = h(
      "details.fold",
      { "data-fold": id, open: opened.includes("all") || opened.includes(id), ontoggle: remember },
      h("summary", h("h3", { id, tabindex: -1 }, title)),
    );
    return unfold(details, () => [h("div.figures", ...build().filter(Boolean))]);
  });
  const everything = (isOpen) => () => {
    for (const details of made) details.open = isOpen;
  };
  return part("more", "Everything else", [
    h(
      "p.row.screen",
      h("button", { type: "button", onclick: everything(true) }, "Open all"),
      h("button", { type: "button", onclick: everything(false) }, "Close all"),
      DATA.charts.length ? highlight() : null,
    ),
    ...made,
  ]);
}

// Returns a table of every configuration with all of its statistics.
function allNumbers() {
  const rows = DATA.trade?.table ?? DATA.numbers;
  const caption =
    "Quality and cost of every configuration, a control beneath its configuration; in brackets: intervals";
  return [twin(caption, rows)];
}

const held = () =>
  `This file holds the texts and tokens of ${form(DATA.prompts.length, "count")} of ${form(DATA.counts.prompts, "count")} prompts; ` +
  "averages are over all of them. Which are held, and why, is on their pages; the command that builds the report takes others with --prompts and --ids.";

const highlight = () =>
  h(
    "p.screen",
    chooser("Highlight:", [["", "none"], ...DATA.configurations.map(({ key }) => inMenu(key))], "", pick, "highlight"),
  );

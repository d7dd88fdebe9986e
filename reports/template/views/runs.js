// The overview's table of runs: each prompt with its expected answer, the texts of full depth and a setting, and a cell per
// setting.

const MARKS_OF = { right: "right or wrong", same: "same text as full depth" }; // cells that aren't a metric's

function runsPart() {
  const controls = h("div.row"),
    said = h("p.soft", { role: "status" }),
    box = h("div.runs");
  const change = (key) => (value) => {
    choose(`runs.${key}`, value);
    selection = selectionOf();
    show();
    readdress(pathOf(location.hash));
    for (const entry of drawn) if (key !== "cells") entry.update();
  };
  const show = () => {
    const { keys, key, kinds, kind, name, found } = selection,
      ways = cellWays(),
      way = choiceOf("runs.cells", Object.keys(ways)),
      options = [...found].map(([each, rows]) => [each, `${each} (${form(rows.length, "count")})`]);
    controls.replaceChildren(
      ...[
        chooser("Setting", keys.map(inMenu), key, change("setting")),
        kinds.length > 2 && chooser("Kind", kinds, kind, change("kind")),
        chooser("Show", options, name, change("filter")),
        chooser("Cells", Object.entries(ways), way, change("cells")),
      ].filter(Boolean),
    );
    said.replaceChildren(...selectedWords());
    box.replaceChildren(runsGrid(way, ways[way]));
  };
  show();
  return part("runs", "Runs", [controls, said, box]);
}

// Returns the contents that cells can have: name → label.
function cellWays() {
  const metrics = DATA.metrics.filter(({ key }) => key !== "correct").map(({ key, label }) => [key, label]),
    usual = Object.entries(MARKS_OF).filter(([way]) => metricAt(way === "right" ? "correct" : "equal_share") >= 0);
  return Object.fromEntries([...usual, ...metrics]);
}

function selectedWords() {
  const { rows, all, found, prompts } = selection,
    noun = DATA.seeds.length > 1 ? "runs" : "prompts",
    n = (name) => form(found.get(name)?.length ?? 0, "count");
  const marked = found.has(LOST) ? ` ${n(LOST)} lost, ${n(GAINED)} gained.` : "";
  return [
    `${form(rows.length, "count")} of ${form(all.length, "count")} ${noun} that this file holds with this setting.${marked}`,
    prompts
      ? " Quality against cost, where tokens exit and dose response are of these prompts; times, pairs and other tables of all."
      : " What is shown here drives the charts.",
    " Bold: what the other text doesn't have.",
  ];
}

function runsGrid(way, label) {
  const { rows, key, baseKey, all } = selection,
    hasAnswers = DATA.prompts.some(({ answer }) => answer !== null),
    hasKinds = DATA.prompts.some(({ kind }) => kind);
  const columns = [
    {
      label: "Prompt",
      text: true,
      value: ({ number }) => number,
      show: ({ prompt, one }) => {
        const asked = h("span.asked", " ", ...oneLine(shorten(prompt.text, 60)));
        return h("div", h("a", { href: address(prompt) }, prompt.id, ofSeed(one), asked));
      },
    },
    hasKinds && { label: "Kind", text: true, value: ({ prompt }) => prompt.kind },
    hasAnswers && {
      label: "Expected",
      text: true,
      look: () => "words prose",
      value: ({ prompt }) => prompt.answer,
      show: ({ prompt }) => h("span", ...(prompt.answer === null ? ["–"] : oneLine(shorten(prompt.answer, 40)))),
    },
    baseKey && answerColumn("Full depth", 0, null),
    answerColumn(shortOf(key), 1, baseKey),
    ...DATA.configurations.map(({ key: of, mark }, c) => cellColumn(of, mark, c, way, rows)),
  ].filter(Boolean);
  const records = () => Promise.all(rows.map(async (row) => runRecord(await withTexts(row), way)));
  const each = all.some(({ one }) => !one.every) ? DATA.seeds.length : 1,
    inAll = all.length + each * (DATA.counts.prompts - DATA.prompts.length);
  return table(`Cells: ${label}`, columns, rows, { page: TEXTS_AT_ONCE, name: "Runs", records, inAll });
}

// Returns the text of full depth (0) or the setting (1), marked as right or wrong.
function answerColumn(label, side, baseKey) {
  const runOf = ({ one, base }) => (side ? one : base);
  const written = (row) => {
    const run = runOf(row);
    if (!run) return ["–"];
    if (!isDone(run)) return [h("a.bad", { href: address(row.prompt, run) }, "failed")];
    const text = later(withTexts(row), ({ texts }) => {
      const isKnown = texts.every((each) => typeof each === "string");
      return texts[side] === null
        ? ["not in this file"]
        : excerpt(texts[side], isKnown ? firstDifference(...texts) : null, texts[1 - side]);
    });
    return [markOf(run), " ", text, ...(side ? [" ", why(row, baseKey)] : [])];
  };
  return {
    label,
    text: true,
    look: () => "words prose written",
    value: (row) => runOf(row) && rightOf(runOf(row)),
    show: (row) => h("span", ...written(row).filter(Boolean)),
  };
}

// Returns a link to the run next to full depth's, at the first token that differs.
function why({ prompt, one, number, base }, baseKey) {
  const link = h("a", { "aria-label": `Why: ${DATA.configurations[one.c].key} on prompt ${prompt.id}` }, "why");
  link.href = address(prompt, one, { vs: base && baseKey });
  withTexts({ prompt, one, number, base }).then(({ tokens, baseTokens }) => {
    if (tokens && baseTokens) link.href = address(prompt, one, { vs: baseKey, t: tokenDifference(tokens, baseTokens) });
  });
  return link;
}

// Returns the run of a row's prompt and seed under configuration number `c`.
const runUnder = ({ prompt, one }, c) =>
  prompt.runs.find((run) => run.c === c && (run.every || one.every || hasSeed(run, one.seed)));

// Returns a run's number for a cell: 1 or 0 for marks, or a metric's value; null if it isn't known.
function cellValue(row, c, way) {
  const run = runUnder(row, c);
  if (!run || !isDone(run)) return null;
  if (way === "same") return row.base ? Number(c === row.base.c || isSame(run, row.base)) : null;
  return run.m[metricAt(way === "right" ? "correct" : way)];
}

const CELL_MARKS = {
  right: [
    ["✗", "wrong"],
    ["✓", "right"],
  ],
  same: [
    ["≠", "differs"],
    ["=", "same"],
  ],
};

function cellColumn(key, mark, c, way, rows) {
  const value = (row) => cellValue(row, c, way),
    metric = DATA.metrics[metricAt(way)],
    share = metric ? shareOf(rows, way) : null;
  const look = (number) => {
    if (number === null) return [null, "–"];
    if (metric) return [null, form(number, metric.form)];
    const [sign, words] = CELL_MARKS[way][number];
    return [way === "right" ? words : null, sign, h("span.hidden", words)];
  };
  return {
    label: shortOf(key) + mark,
    title: key,
    value,
    show: (row) => {
      const run = runUnder(row, c);
      if (!run) return "";
      const href = address(row.prompt, run),
        title = `${key} on prompt ${row.prompt.id}`;
      if (!isDone(run)) return h("a.bad", { href, title }, "✕", h("span.hidden", "failed"));
      const [name, ...words] = look(value(row)),
        link = h("a", { href, title, class: name }, ...words);
      if (metric && value(row) !== null) link.style.setProperty("--share", share(value(row)));
      return link;
    },
  };
}

// The colours of numbers span the 2nd to the 98th percentile, so that one outlier doesn't make all other cells look alike.
function shareOf(rows, way) {
  const values = rows.flatMap((row) => DATA.configurations.map((_, c) => cellValue(row, c, way))).filter(isNumber),
    ordered = values.sort((a, b) => a - b),
    low = ordered[Math.floor(ordered.length * 0.02)],
    high = ordered[Math.ceil(ordered.length * 0.98) - 1];
  return (value) => (high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0);
}

function runRecord(row, way) {
  const { prompt, base, one, texts } = row,
    metric = metricAt(way);
  const cells = DATA.configurations.map(({ key }, c) => [key, cellValue(row, c, way)]);
  return {
    prompt_id: prompt.id,
    prompt: prompt.text,
    kind: prompt.kind,
    expected: prompt.answer,
    seed: seedOf(one),
    full_depth_right: base ? rightOf(base) : null,
    full_depth: texts[0] ?? null,
    setting: DATA.configurations[one.c].key,
    right: rightOf(one),
    text: texts[1],
    error: one.error,
    ...Object.fromEntries(cells.map(([key, value]) => [`${metric < 0 ? MARKS_OF[way] : way}: ${key}`, value])),
  };
}

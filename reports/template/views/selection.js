// The filter of the table of runs. Charts that can be recomputed from the page's runs then show the selected prompts; all
// other charts state that they show all prompts.

const ALL = "all",
  LOST = "right at full depth, wrong here",
  GAINED = "wrong at full depth, right here",
  COST_FULL = 0, // indices in a run's costs
  SAVED = { theoretical: 1, run: 2 };

let selection = null; // {prompts, rows, of, …} by `selectionOf`

// Returns the filters of a setting's runs: {name, isSo({one, base})}, for the setting's run and full depth's.
function runFilters(baseKey) {
  const right = (run) => (run ? rightOf(run) : null),
    both = metricAt("correct") >= 0 && baseKey,
    rules = DATA.configurations.filter(({ rule, control_of: of }) => rule !== null && of === null),
    online = rules.filter(({ rule }) => !DATA.rules[rule]?.oracle),
    every = online.length ? online : rules;
  const underAll = (prompt) => every.every(({ key }) => runsOf(prompt, key).every((run) => right(run) === 0));
  return [
    { name: ALL, isSo: () => true },
    both && { name: LOST, isSo: ({ one, base }) => right(base) === 1 && right(one) === 0 },
    both && { name: GAINED, isSo: ({ one, base }) => right(base) === 0 && right(one) === 1 },
    both && {
      name: "right at full depth, wrong under every rule",
      isSo: ({ prompt, base }) => right(base) === 1 && underAll(prompt),
    },
    metricAt("correct") >= 0 && { name: "right here", isSo: ({ one }) => right(one) === 1 },
    metricAt("correct") >= 0 && { name: "wrong here", isSo: ({ one }) => right(one) === 0 },
    baseKey && {
      name: "differs from full depth",
      isSo: ({ one, base }) => base && isDone(one) && !isSame(one, base),
    },
    DATA.counts.failed && { name: "failed here", isSo: ({ one }) => !isDone(one) },
  ].filter(Boolean);
}

// Returns each run of a setting with full depth's finished run of the same prompt and seed: {prompt, number, one, base}.
function runsBeside(baseKey, key) {
  return DATA.prompts.flatMap((prompt, number) => {
    const bases = runsOf(prompt, baseKey).filter(isDone);
    return runsOf(prompt, key).map((one) => ({
      prompt,
      number,
      one,
      base: bases.find((base) => one.every || hasSeed(base, one.seed)),
    }));
  });
}

// Returns the reader's choices: setting, filters with the rows of each, kinds, and the selected rows. Rows come first where
// the setting loses an answer, then where it gains one, then where the text differs.
function selectionOf() {
  const baseKey = configurationOf(DATA.normal)?.key ?? null,
    keys = DATA.configurations.map(({ key }) => key).filter((key) => key !== DATA.normal),
    key = choiceOf("runs.setting", keys, firstSetting()),
    filters = runFilters(baseKey),
    kinds = [ALL, ...new Set(DATA.prompts.map(({ kind }) => kind).filter(Boolean))],
    kind = choiceOf("runs.kind", kinds),
    name = choiceOf(
      "runs.filter",
      filters.map((each) => each.name),
    ),
    all = runsBeside(baseKey, key),
    ofKind = all.filter(({ prompt }) => kind === ALL || prompt.kind === kind),
    found = new Map(filters.map((each) => [each.name, ofKind.filter(each.isSo)]));
  const telling = [LOST, GAINED, "differs from full depth", ALL].flatMap((each) => found.get(each) ?? []),
    kept = new Set(found.get(name)),
    rows = [...new Set(telling)].filter((row) => kept.has(row)),
    isWhole = kind === ALL && name === ALL;
  const prompts = isWhole ? null : [...new Set(rows.map(({ prompt }) => prompt))];
  return { baseKey, keys, key, kinds, kind, name, found, all, rows, prompts };
}

const isRecomputed = ({ key }) => key === "quality" || key === "mix" || key.startsWith("dose-");

// Returns the rows of a chart for the selected prompts: means without intervals. Rows of no configuration in the sweep, such as
// replays, are left out. Numbers that can't be recomputed, such as time, are null.
function ofSelection(chart, rows) {
  if (!selection?.prompts || !isRecomputed(chart)) return rows;
  const made = new Map();
  const numbersOf = (key) => {
    if (!made.has(key)) made.set(key, selectedNumbers(key));
    return made.get(key);
  };
  return rows
    .filter((row) => configurationOf(row.configuration) && !row.replayed)
    .map((row) => {
      const control = controlKey(row.configuration),
        numbers = numbersOf(row.configuration);
      const value = (name) => {
        if (name === "share") return numbers.mix[row.rank];
        if (name.endsWith("_control")) return control ? (numbersOf(control)[name.slice(0, -8)] ?? null) : null;
        return numbers[name.endsWith("_n") ? "n" : name] ?? null;
      };
      const kept = ["parameter", "rank", "n_seeds"];
      return Object.fromEntries(
        Object.entries(row).map(([name, old]) => [name, isNumber(old) && !kept.includes(name) ? value(name) : old]),
      );
    });
}

// Returns the means of a configuration's runs over the selected prompts, seeds averaged first.
function selectedNumbers(key) {
  const ofPrompts = selection.prompts.map((prompt) => runsOf(prompt, key).filter(isDone)).filter((runs) => runs.length);
  const numbers = { n: ofPrompts.length };
  for (const [at, { key: name, geometric }] of DATA.metrics.entries())
    numbers[name] = mean(
      ofPrompts.map((runs) => meanOf(runs, at)),
      geometric,
    );
  numbers.layers_skipped = isNumber(numbers.mean_depth) ? 1 - numbers.mean_depth : null;
  for (const [name, place] of Object.entries(SAVED)) {
    const known = ofPrompts.map((runs) =>
      runs.filter(({ costs }) => isNumber(costs[place]) && isNumber(costs[COST_FULL])),
    );
    const total = (at) => known.reduce((sum, runs) => sum + (mean(runs.map(({ costs }) => costs[at])) ?? 0), 0);
    numbers[name] = total(COST_FULL) ? 1 - total(place) / total(COST_FULL) : null;
  }
  const shares = ({ counts }) => counts.map((n) => n / counts.reduce((sum, each) => sum + each, 0));
  const ofLayers = ofPrompts.map((runs) => runs.map(shares).filter(([first]) => !Number.isNaN(first)));
  numbers.mix = DATA.layers.map((_, rank) => mean(ofLayers.map((runs) => mean(runs.map((each) => each[rank])))));
  return numbers;
}

// Returns the note on the selection before a chart's caption; nothing if all prompts are selected.
function selectionWords(chart) {
  if (!selection?.prompts) return [];
  const link = h("a", { href: "#/at/runs" }, `${form(selection.prompts.length, "count")} selected`),
    of = DATA.prompts.length;
  return isRecomputed(chart)
    ? [h("strong", "Of the ", link, ` of ${form(of, "count")} prompts, without intervals.`), " "]
    : [h("strong", "Of all prompts, not of those ", link, "."), " "];
}

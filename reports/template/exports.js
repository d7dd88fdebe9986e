// Exports: charts as images; rows of charts and tables, runs and tokens of a run as CSV or JSON, each with how many of how
// many it has; and printing.

function download(url, name) {
  h("a", { href: url, download: name }).click();
}

async function saveImage(entry, type) {
  download(await entry.view.toImageURL(type, 2), `${entry.chart.key}.${type}`);
}

// Every run that the page holds, with its text.
async function saveRuns(type) {
  const records = [];
  for (const [number, prompt] of DATA.prompts.entries()) {
    const tokens = await coreOf(number);
    prompt.runs.forEach((run, i) => {
      records.push({
        prompt_id: prompt.id,
        prompt: prompt.text,
        kind: prompt.kind,
        ...told(DATA.configurations[run.c]),
        seed: seedOf(run),
        status: run.status,
        finish_reason: run.finish,
        ...Object.fromEntries(DATA.metrics.map(({ key }, m) => [key, run.m[m]])),
        error: run.error,
        text: textOf(run, tokens[i]),
      });
    });
  }
  save(type, "runs", records, DATA.counts.different, "runs");
}

// What the header's buttons give.
const runsWords = () =>
  `${form(DATA.prompts.flatMap(({ runs }) => runs).length, "count")} of ${form(DATA.counts.different, "count")} runs, of ${form(DATA.prompts.length, "count")} of ${form(DATA.counts.prompts, "count")} prompts`;

// What only places or labels the marks of a chart, or is for the page. What is saved has all other columns.
const PLACING = [
    "row",
    "rank",
    "order",
    "shown_layer",
    "words",
    "family",
    "series",
    "setting",
    "beneath",
    "shown_as",
    "short",
  ],
  OF_THE_PAGE = ["key", "mark", "saw"];

const told = (row) =>
  Object.fromEntries(Object.entries(row).filter(([key]) => ![...PLACING, ...OF_THE_PAGE].includes(key)));

// Those of all slices.
function saveRows({ chart }, type) {
  const rows = ofSelection(chart, (chart.csv || chart.rows || (() => chart.table.rows))());
  save(type, chart.key, rows.map(told), chart.all?.());
}

const saveButton = (title, type, onclick) =>
  h("button", { type: "button", "aria-label": `Save ${title} as ${type.toUpperCase()}`, onclick }, type.toUpperCase());

// Buttons that save records, as CSV or as JSON, of so many in all; `records` gives them, or a promise of them.
const savesOf = (title, records, inAll) =>
  h(
    "span.saves.screen",
    ...["csv", "json"].map((type) =>
      saveButton(title, type, async () => save(type, fileName(title).slice(0, 60), await records(), inAll)),
    ),
  );

const fileName = (title) => title.replace(/[^\w.@-]+/g, "_");

// Save records. JSON says where they come from, how many of how many they are and what the reader chose; either way, a
// message and the file's name say how many, where some are missing.
function save(type, title, records, inAll = records.length, noun = "rows") {
  const missing = inAll - records.length,
    name = missing ? `${title}-${records.length}-of-${inAll}` : title;
  const keys = [...new Set(records.flatMap(Object.keys))],
    content = type === "json" ? asJson(keys, records, inAll) : asCsv(keys, records);
  download(URL.createObjectURL(new Blob([content])), `${name}.${type}`);
  $("saved").textContent =
    `Saved ${form(records.length, "count")} of ${form(inAll, "count")} ${noun} as ${name}.${type}` +
    (missing ? `; ${form(missing, "count")} are missing` : "");
}

// Every token of a run with all that this file holds of it, rounded as it is in this file.
async function saveTokens(number, run, type) {
  const prompt = DATA.prompts[number],
    tokens = (await coreOf(number))[prompt.runs.indexOf(run)],
    detail = await detailOf(number, run),
    layers = DATA.layers.map((_, rank) => layerNumber(rank)),
    round = (value) => (value === null ? null : +value.toPrecision(4));
  // A column for each of the layers, and two for each of the likely tokens.
  const ofLayers = (name, some, values) =>
    Object.fromEntries(some.map((layer, rank) => [`${name}_${layer}`, values && round(values[rank])]));
  const ofLikely = (name, at, found) =>
    Object.fromEntries(
      Array.from({ length: DATA.top }, (_, j) => [
        [`${name}${at}_${j + 1}`, found?.[j] ? pieceText(found[j].piece) : null],
        [`${name}_prob${at}_${j + 1}`, found?.[j] ? round(found[j].probability) : null],
      ]).flat(),
    );
  const records = Array.from({ length: tokens.n }, (_, i) => {
    const { kl, probability, saw, logprob, entropy, said, top, read } = detail(i),
      token = pieceText(tokens.piece[i]);
    return {
      prompt_id: prompt.id,
      configuration: DATA.configurations[run.c].key,
      seed: seedOf(run),
      position: i,
      decided: i >= run.undrawn,
      token,
      exit_layer: layers[tokens.rank[i]],
      disagrees: tokens.disagrees && Boolean(tokens.disagrees[i]),
      drafted: tokens.drafted && Boolean(tokens.drafted[i]),
      full_depth_token: logprob === null ? null : said === null ? token : pieceText(said),
      logprob: round(logprob),
      entropy: round(entropy),
      ...ofLayers("kl", layers.slice(0, -1), kl),
      ...ofLayers("evidence", layers.slice(0, -1), saw),
      ...ofLayers("exit_prob", layers, probability),
      ...ofLikely("exit_top", "", read),
      ...Object.assign({}, ...layers.map((layer, rank) => ofLikely("top", `_${layer}`, top?.[rank]))),
    };
  });
  save(type, fileName(`tokens-${prompt.id}-${runName(run)}`), records, run.n, "tokens");
}

function asJson(keys, records, inAll) {
  const content = {
    title: DATA.title,
    origin: Object.fromEntries(DATA.facts),
    address: location.hash,
    choices: Object.fromEntries(choicesMade()),
    n: records.length,
    n_in_all: inAll,
    rows: records.map((record) => Object.fromEntries(keys.map((key) => [key, plain(record[key])]))),
  };
  return JSON.stringify(content, null, 1);
}

function asCsv(keys, records) {
  const lines = [keys, ...records.map((record) => keys.map((key) => record[key]))];
  return `${lines.map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`;
}

// Text that a spreadsheet would take for a formula is prefixed with an apostrophe.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const ACROSS = 680; // the width in pixels of a portrait page, A4 or letter

const unfolded = [], // what was opened for printing
  lengthened = []; // functions that take back what tables show on paper alone

// Open what is folded on this page, and what is folded in that, and fill it at once.
function openFolds() {
  const closed = () => [...$("main").querySelectorAll("details:not([open], .screen)")];
  for (let some = closed(); some.length; some = closed())
    for (const details of some) {
      details.open = true;
      details.dispatchEvent(new Event("toggle")); // the browser's own comes too late
      unfolded.push(details);
    }
}

// Charts and texts that are shown on paper alone need libraries and tokens, which may not be there yet.
async function printPage() {
  openFolds();
  for (const box of $("main").querySelectorAll(".tabled")) {
    const shorten = shortTables.get(box)?.();
    if (shorten) lengthened.push(shorten);
  }
  await Promise.allSettled([redraw(false), ...awaited]);
  print();
}

// The browser's own key for printing, which would not wait for them.
function printByKey(event) {
  if (event.key !== "p" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
  event.preventDefault();
  printPage();
}

// For printing, what is folded is opened, and charts are drawn on white and in the width of the paper; afterwards the page is
// as before.
function preparePrint() {
  const dark = isDark();
  paper = ACROSS;
  stampPaper();
  setTheme(false);
  openFolds();
  redraw(true);
  addEventListener(
    "afterprint",
    () => {
      paper = 0;
      setTheme(dark);
      for (const details of unfolded.splice(0)) details.open = false;
      for (const shorten of lengthened.splice(0)) shorten();
      redraw(true);
    },
    { once: true },
  );
}

// What a printed page says of itself: where its numbers come from, what the reader chose, and its address.
function stampPaper() {
  const facts = Object.fromEntries(DATA.facts),
    made = choicesMade().map(([key, value]) => `${key} ${value}`);
  $("paper")?.remove();
  $("main").append(
    h(
      "footer.paper",
      { id: "paper" },
      h(
        "p",
        [
          DATA.title,
          facts.Size,
          `${form(DATA.counts.runs, "count")} runs, ${form(DATA.counts.failed, "count")} failed`,
          facts.Started,
          facts.Versions,
          facts.Digest,
        ]
          .filter(Boolean)
          .join(" · "),
      ),
      h("p", `Chosen: ${made.join("; ") || "nothing"}. Address: ${location.hash || "#/"}`),
    ),
  );
}

// Exports: charts as images; rows of charts and tables, runs, and tokens of a run as CSV or JSON, each with the number of
// records and the total; and printing.

function download(url, name) {
  h("a", { href: url, download: name }).click();
}

async function saveImage(entry, type) {
  download(await entry.view.toImageURL(type, 2), `${entry.chart.key}.${type}`);
}

// Returns every run on the page, with its text.
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

// Returns the number of runs and prompts that the header's buttons export, in words.
const runsWords = () =>
  `${form(DATA.prompts.flatMap(({ runs }) => runs).length, "count")} of ${form(DATA.counts.different, "count")} runs, of ${form(DATA.prompts.length, "count")} of ${form(DATA.counts.prompts, "count")} prompts`;

// Columns that only place or label a chart's marks, or are for the page. All others are saved.
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
  OF_THE_PAGE = ["key", "mark", "score_kind"];

const told = (row) =>
  Object.fromEntries(Object.entries(row).filter(([key]) => ![...PLACING, ...OF_THE_PAGE].includes(key)));

// Saves the rows of all slices.
function saveRows({ chart }, type) {
  const rows = ofSelection(chart, (chart.csv || chart.rows || (() => chart.table.rows))());
  save(type, chart.key, rows.map(told), chart.all?.());
}

const saveButton = (title, type, onclick) =>
  h("button", { type: "button", "aria-label": `Save ${title} as ${type.toUpperCase()}`, onclick }, type.toUpperCase());

// Returns buttons that save records as CSV or JSON, with their total number. `records` returns them, or a promise of them.
const savesOf = (title, records, inAll) =>
  h(
    "span.saves.screen",
    ...["csv", "json"].map((type) =>
      saveButton(title, type, async () => save(type, fileName(title).slice(0, 60), await records(), inAll)),
    ),
  );

const fileName = (title) => title.replace(/[^\w.@-]+/g, "_");

// Saves records. JSON also has their origin, their number and total, and the reader's choices. If some are missing, a message
// and the file's name state how many there are.
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

// Returns every token of a run with all numbers in this file, rounded as they are here.
async function saveTokens(number, run, type) {
  const prompt = DATA.prompts[number],
    tokens = (await coreOf(number))[prompt.runs.indexOf(run)],
    detail = await detailOf(number, run),
    layers = DATA.layers.map((_, rank) => layerNumber(rank)),
    round = (value) => (value === null ? null : +value.toPrecision(4));
  // A column per layer, and two per likely token.
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
    const { kl, probability, scores, logprob, entropy, said, top, read } = detail(i),
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
      ...ofLayers("exit_score", layers.slice(0, -1), scores),
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

// Text that a spreadsheet would treat as a formula gets an apostrophe as prefix.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const ACROSS = 680; // the width in pixels of a portrait page, A4 or letter

const unfolded = [], // what was opened for printing
  lengthened = []; // functions that hide the table rows for paper again

// Opens all folds on this page, nested ones too, and fills them at once.
function openFolds() {
  const closed = () => [...$("main").querySelectorAll("details:not([open], .screen)")];
  for (let some = closed(); some.length; some = closed())
    for (const details of some) {
      details.open = true;
      details.dispatchEvent(new Event("toggle")); // the browser's own event comes too late
      unfolded.push(details);
    }
}

// Prints the page, after loading the libraries and tokens of charts and texts that only paper shows.
async function printPage() {
  openFolds();
  for (const box of $("main").querySelectorAll(".tabled")) {
    const shorten = shortTables.get(box)?.();
    if (shorten) lengthened.push(shorten);
  }
  await Promise.allSettled([redraw(false), ...awaited]);
  print();
}

// Replaces the browser's own key for printing, which would not wait for them.
function printByKey(event) {
  if (event.key !== "p" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
  event.preventDefault();
  printPage();
}

// For printing, folds are opened, and charts are drawn on white and in the paper's width. Afterwards the page is as before.
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

// Adds the printed page's note: the origin of its numbers, the reader's choices, and the address.
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

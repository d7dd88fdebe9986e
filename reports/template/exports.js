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
  const identity = [
    "configuration",
    "mode",
    "rule",
    "parameter",
    "kl_factor",
    "control_of",
    "draft_layer",
    "draft_length",
  ];
  const head = [
    "prompt_id",
    "prompt",
    ...identity,
    "seed",
    "status",
    "finish_reason",
    ...DATA.metrics.map((metric) => metric.key),
    "error",
    "text",
  ];
  const lines = [head];
  for (const [number, prompt] of DATA.prompts.entries()) {
    const tokens = await coreOf(number);
    prompt.runs.forEach((run, i) => {
      lines.push([
        prompt.id,
        prompt.text,
        ...identity.map((name) => DATA.configurations[run.c][name]),
        run.every ? "every" : run.seed,
        run.status,
        run.finish,
        ...run.m,
        run.error,
        textOf(run, tokens[i]),
      ]);
    });
  }
  const [keys, ...rows] = lines;
  save(type, "runs", keys, rows, DATA.counts.different, "runs");
}

const runsHeld = () => DATA.prompts.reduce((sum, { runs }) => sum + runs.length, 0);

// What the header's buttons give.
const runsWords = () =>
  `${form(runsHeld(), "count")} of ${form(DATA.counts.different, "count")} runs, of ${form(DATA.prompts.length, "count")} of ${form(DATA.counts.prompts, "count")} prompts`;

// Columns that only place or label the marks of a chart. The CSV has all other columns, with the rows of all slices.
const PLACING = ["row", "rank", "order", "label", "words", "family", "series", "setting", "beneath", "shown_as"];

function saveRows({ chart }, type) {
  const rows = (chart.csv || chart.rows || (() => chart.table.rows))();
  const keys = [...new Set(rows.flatMap(Object.keys))].filter((key) => !PLACING.includes(key));
  save(
    type,
    chart.key,
    keys,
    rows.map((row) => keys.map((key) => row[key])),
    chart.all?.() ?? rows.length,
    "rows",
  );
}

// Buttons that save records, as CSV or as JSON; `records` gives them, or a promise of them.
function savesOf(title, records) {
  const make = (type) =>
    h(
      "button",
      {
        type: "button",
        "aria-label": `Save ${title} as ${type.toUpperCase()}`,
        onclick: async () => {
          const rows = await records(),
            keys = [...new Set(rows.flatMap(Object.keys))];
          const name = title.replace(/[^\w.@-]+/g, "_").slice(0, 60);
          save(
            type,
            name,
            keys,
            rows.map((row) => keys.map((key) => row[key])),
            rows.length,
            "rows",
          );
        },
      },
      type.toUpperCase(),
    );
  return h("span.saves.screen", {}, make("csv"), make("json"));
}

// Save rows of values under their keys. JSON says where they come from, how many of how many they are and what the reader
// chose; either way, a message says how many.
function save(type, name, keys, rows, inAll, noun) {
  if (type === "json") {
    const content = {
      title: DATA.title,
      origin: Object.fromEntries(DATA.facts),
      address: location.hash,
      choices: Object.fromEntries(choicesMade()),
      n: rows.length,
      n_in_all: inAll,
      rows: rows.map((row) => Object.fromEntries(keys.map((key, i) => [key, plain(row[i])]))),
    };
    download(
      URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" })),
      `${name}.json`,
    );
  } else saveCsv([keys, ...rows], name);
  $("saved").textContent = `Saved ${form(rows.length, "count")} of ${form(inAll, "count")} ${noun} as ${name}.${type}`;
}

// Every token of a run with all that this file holds of it, rounded as it is in this file.
async function saveTokens(number, run, type) {
  const prompt = DATA.prompts[number],
    tokens = (await coreOf(number))[prompt.runs.indexOf(run)],
    detail = await detailOf(number, run);
  const ranks = DATA.layers.map((_, rank) => rank),
    layers = ranks.map(layerNumber),
    likely = Array.from({ length: DATA.top }, (_, j) => j);
  const head = [
    "prompt_id",
    "configuration",
    "seed",
    "position",
    "decided",
    "token",
    "exit_layer",
    "disagrees",
    "drafted",
    "full_depth_token",
    "logprob",
    "entropy",
    ...layers.slice(0, -1).map((layer) => `kl_${layer}`),
    ...layers.slice(0, -1).map((layer) => `evidence_${layer}`),
    ...layers.map((layer) => `exit_prob_${layer}`),
    ...likely.flatMap((j) => [`exit_top_${j + 1}`, `exit_top_prob_${j + 1}`]),
    ...layers.flatMap((layer) => likely.flatMap((j) => [`top_${layer}_${j + 1}`, `top_prob_${layer}_${j + 1}`])),
  ];
  const lines = Array.from({ length: tokens.n }, (_, i) => {
    const { kl, probability, saw, logprob, entropy, said, top, read } = detail(i),
      token = pieceText(tokens.piece[i]),
      round = (value) => (value === null ? null : +value.toPrecision(4));
    const ofLikely = (found) =>
      likely.flatMap((j) => (found?.[j] ? [pieceText(found[j].piece), round(found[j].probability)] : [null, null]));
    return [
      prompt.id,
      DATA.configurations[run.c].key,
      run.every ? "every" : run.seed,
      i,
      i >= run.undrawn,
      token,
      layers[tokens.rank[i]],
      tokens.disagrees && Boolean(tokens.disagrees[i]),
      tokens.drafted && Boolean(tokens.drafted[i]),
      logprob === null ? null : said === null ? token : pieceText(said),
      round(logprob),
      round(entropy),
      ...ranks.slice(0, -1).map((rank) => kl && round(kl[rank])),
      ...ranks.slice(0, -1).map((rank) => saw && round(saw[rank])),
      ...ranks.map((rank) => probability && round(probability[rank])),
      ...ofLikely(read),
      ...ranks.flatMap((rank) => ofLikely(top?.[rank])),
    ];
  });
  const name = `tokens-${prompt.id}-${runName(run)}`.replace(/[^\w.@-]+/g, "_");
  save(type, name, head, lines, run.n, "tokens");
}

function saveCsv(lines, name) {
  const csv = `${lines.map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`;
  download(URL.createObjectURL(new Blob([csv], { type: "text/csv" })), `${name}.csv`);
}

// Text that a spreadsheet would take for a formula is prefixed with an apostrophe.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const ACROSS = 680; // the width in pixels of a portrait page, A4 or letter

// For printing, charts are drawn on white and in the width of the paper; afterwards they are drawn for the screen
// again.
function preparePrint() {
  const dark = isDark();
  paper = ACROSS;
  stampPaper();
  setTheme(false);
  redraw(true);
  addEventListener(
    "afterprint",
    () => {
      paper = 0;
      setTheme(dark);
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
        {},
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
      h("p", {}, `Chosen: ${made.join("; ") || "nothing"}. Address: ${location.hash || "#/"}`),
    ),
  );
}

// Exports: charts as images; rows of charts, runs and tokens of a run as CSV; and printing.

function download(url, name) {
  h("a", { href: url, download: name }).click();
}

async function saveImage(entry, type) {
  download(await entry.view.toImageURL(type, 2), `${entry.chart.key}.${type}`);
}

// Every run that the page holds, with its text.
async function saveRuns() {
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
  saveCsv(lines, "runs");
}

// Columns that only place or label the marks of a chart. The CSV has all other columns, with the rows of all slices.
const PLACING = ["row", "rank", "order", "label", "words", "family", "series", "setting", "beneath", "shown_as"];

function saveRows({ chart }) {
  const rows = (chart.csv || chart.rows || (() => chart.table.rows))();
  const keys = [...new Set(rows.flatMap(Object.keys))].filter((key) => !PLACING.includes(key));
  saveCsv([keys, ...rows.map((row) => keys.map((key) => row[key]))], chart.key);
}

// Every token of a run with all that this file holds of it, rounded as it is in this file.
async function saveTokens(number, run) {
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
  saveCsv([head, ...lines], `tokens-${prompt.id}-${runName(run)}`.replace(/[^\w.@-]+/g, "_"));
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

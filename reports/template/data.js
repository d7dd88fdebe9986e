// Decoder of this file's blobs, which are compressed with gzip and written as base64. It decodes them when they are needed;
// packing.py describes their content.

let DATA = null; // the payload
let PIECES = []; // the text of each token, or its id (a number) where the text isn't known

const text = (bytes) => new TextDecoder().decode(bytes);

// Columns are compressed one by one, and separated by commas.
async function inflate(base64) {
  const unzipped = base64.split(",").map((column) => {
    const bytes = Uint8Array.from(atob(column.trim()), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  });
  return new Uint8Array(await new Blob(await Promise.all(unzipped)).arrayBuffer());
}

const inFile = (name) => inflate(document.getElementById(`blob-${name}`).textContent);

async function load() {
  DATA = JSON.parse(text(await inFile("payload")));
  PIECES = JSON.parse(text(await inFile("pieces")));
  DATA.final = DATA.layers.length - 1;
  DATA.seeds = [...new Set(DATA.prompts.flatMap((prompt) => prompt.runs.map((run) => run.seed)))];
  if (DATA.beside) DATA.beside.pairs = new Map(DATA.beside.base.map((one, i) => [`${one} ${DATA.beside.other[i]}`, i]));
  for (const prompt of DATA.prompts) {
    let start = 0;
    for (const run of prompt.runs) {
      run.start = start;
      start += run.n;
    }
  }
}

// Side files call this with their content. It is stored at the script's element, since several may load at once.
window.eexitData = (named) => {
  document.currentScript.named = named;
};

const sideFile = (number) => `${DATA.outside.folder}/prompt-${number}.js`;

// Returns a prompt's bytes of one kind; null if they are in a missing side file.
async function blob(kind, number) {
  if (!DATA.outside.kinds.includes(kind)) return inFile(`${kind}-${number}`);
  const prompt = DATA.prompts[number];
  prompt.sideFile ??= new Promise((resolve) => {
    const script = h("script", { nonce: NONCE, src: sideFile(number) });
    script.onload = () => resolve(script.named);
    script.onerror = () => resolve(null);
    document.head.append(script);
  });
  const named = await prompt.sideFile;
  return named && inflate(named[`${kind}-${number}`]);
}

const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

// Returns the columns of a kind: an array per name, with all tokens of the prompt for the first of a column's numbers, then for
// the second, …. Columns that weren't recorded or are missing have no array.
async function columnsOf(kind, number) {
  const found = {},
    bytes = kind in DATA.kinds ? await blob(kind, number) : null;
  let start = 0;
  for (const [name, type, width] of bytes ? DATA.kinds[kind] : []) {
    const n = total(number) * width,
      size = TYPES[type].BYTES_PER_ELEMENT,
      joined = new Uint8Array(n * size);
    for (let place = 0; place < size; place++)
      for (let i = 0; i < n; i++) joined[i * size + place] = bytes[start + place * n + i];
    found[name] = new TYPES[type](joined.buffer);
    start += n * size;
  }
  return found;
}

const metricAt = (key) => DATA.metrics.findIndex((metric) => metric.key === key);

const configurationOf = (key) => DATA.configurations.find((configuration) => configuration.key === key);

// Returns the key of the control with this configuration's exits in the same mode.
const controlKey = (key) =>
  DATA.configurations.find(({ control_of: of, mode }) => of === key && key.startsWith(`${mode}/`))?.key;

const runsOf = (prompt, key) => prompt.runs.filter((run) => DATA.configurations[run.c].key === key);

const isDone = ({ status }) => status === "ok";

// Returns the mean of known numbers, geometric for perplexity; null if there are none.
function mean(numbers, geometric = false) {
  const [into, back] = geometric ? [Math.log, Math.exp] : [(value) => value, (value) => value],
    known = numbers.filter((value) => value !== null && value !== undefined);
  return known.length ? back(known.reduce((sum, value) => sum + into(value), 0) / known.length) : null;
}

// Returns the mean of a metric over the runs that succeeded.
const meanOf = (runs, at) =>
  mean(
    runs.filter(isDone).map((run) => run.m[at]),
    DATA.metrics[at].geometric,
  );

const seedOf = (run) => (run.every ? "every" : run.seed);

const total = (number) => DATA.prompts[number].runs.reduce((sum, run) => sum + run.n, 0);

// Returns a promise of {n, piece, rank, disagrees, drafted} per run of a prompt, arrays with one entry per token; null if its
// tokens aren't available. `disagrees` is 1 where a decided token isn't full depth's most likely one, `drafted` 1 where a token
// was drafted; both are null if not recorded.
function coreOf(number) {
  const prompt = DATA.prompts[number];
  prompt.cores ??= readCores(prompt, number);
  return prompt.cores;
}

async function readCores(prompt, number) {
  const { exit, piece } = await columnsOf("core", number),
    rank = exit?.map((each) => each >> 2),
    flag = (name, bit) => (exit && DATA.flags[name] ? exit.map((each) => (each >> bit) & 1) : null),
    disagrees = flag("disagrees", 0),
    drafted = flag("drafted", 1);
  return prompt.runs.map(({ start, n }) => {
    const part = (whole) => whole?.subarray(start, start + n);
    if (!n || !piece) return null;
    return { n, piece: part(piece), rank: part(rank), disagrees: part(disagrees), drafted: part(drafted) };
  });
}

// Returns a function from token i of a run to {kl, probability, scores, logprob, entropy, said, top, read}, null where not
// recorded. `scores` are the exit scores by layer, null where there is none. `top` are the most likely tokens of the full-depth
// pass at each exit rank, `read` those of the distribution at the exit. `said` is full depth's most likely token, or null if
// that is the token itself.
async function detailOf(number, run) {
  const n = total(number),
    prompt = DATA.prompts[number],
    kinds = ["kl", "prob", "more", "top", "read", "exit_score"];
  prompt.details ??= Promise.all(kinds.map((kind) => columnsOf(kind, number)));
  const { kl, prob, logprob, entropy, said, scores, ...likely } = Object.assign({}, ...(await prompt.details));
  const own = DATA.configurations[run.c].score_kind === "exit_score";
  return (i) => {
    const at = run.start + i;
    // One number per exitable layer.
    const early = (column, read) =>
      column && Array.from({ length: DATA.final }, (_, layer) => read(column[layer * n + at]));
    const hundredths = early(prob, (part) => part);
    const top = (name, rows) =>
      likely[name]?.[at] ? Array.from({ length: rows }, (_, row) => likelyAt(likely, name, n, row, at)) : null;
    return {
      kl: early(kl, unlog) ?? null,
      probability:
        hundredths && [...hundredths, hundredths.reduce((rest, here) => rest - here, 100)].map((part) => part / 100),
      scores: (own && early(scores, (value) => (Number.isNaN(value) ? null : value))) || null,
      logprob: logprob ? -unlog(logprob[at]) : null,
      entropy: entropy ? unlog(entropy[at]) : null,
      said: said?.[at] ? said[at] - 1 : null,
      top: top("top", DATA.layers.length),
      read: top("read", 1)?.[0] ?? null,
    };
  };
}

// Returns the most likely tokens at token `at` of n, from one of its rows.
function likelyAt(likely, name, n, row, at) {
  return Array.from({ length: DATA.top }, (_, j) => (row * DATA.top + j) * n + at)
    .filter((place) => likely[name][place])
    .map((place) => ({ piece: likely[name][place] - 1, probability: likely[`${name}_prob`][place] / 255 }));
}

// Returns the length of the common start of two texts, or of their tokens.
function sameUntil(one, other) {
  const shorter = Math.min(one.length, other.length);
  let i = 0;
  while (i < shorter && one[i] === other[i]) i++;
  return i;
}

const unlog = (code) => (code ? 2 ** (-10 + ((code - 1) * 16) / 126) : 0);

const pieceText = (piece) => (typeof PIECES[piece] === "number" ? `token ${PIECES[piece]}` : PIECES[piece]);

const textOf = (run, tokens) => (tokens ? Array.from(tokens.piece, (p) => pieceText(p)).join("") : run.text || "");

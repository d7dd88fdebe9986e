// Decoding the blobs of this file, which are compressed with gzip and written as base64, when they are needed. Their
// layout is defined in packing.py.

let DATA = null; // the payload
let PIECES = []; // the text of each token, or its id (a number) where the text isn't known
const cores = new Map();
const details = new Map();
const beside = new Map(); // prompt number → a promise of its side file's content

const text = (bytes) => new TextDecoder().decode(bytes);

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const inFile = (name) => inflate(document.getElementById(`blob-${name}`).textContent);

async function load() {
  DATA = JSON.parse(text(await inFile("payload")));
  PIECES = JSON.parse(text(await inFile("pieces")));
  DATA.final = DATA.layers.length - 1;
  DATA.seeds = [...new Set(DATA.prompts.flatMap((prompt) => prompt.runs.map((run) => run.seed)))];
  for (const prompt of DATA.prompts) {
    let start = 0;
    for (const run of prompt.runs) {
      run.start = start;
      start += run.n;
    }
  }
}

const sideFile = (number) => `${DATA.outside.folder}/prompt-${number}.js`;

// A prompt's bytes of one kind; null if they are in a side file that is missing.
async function blob(kind, number) {
  if (!DATA.outside.kinds.includes(kind)) return inFile(`${kind}-${number}`);
  if (!beside.has(number)) {
    beside.set(
      number,
      new Promise((resolve) => {
        const script = h("script", { nonce: NONCE, src: sideFile(number) });
        window.eexitData = (named) => resolve(named);
        script.onerror = () => resolve(null);
        document.head.append(script);
      }),
    );
  }
  const named = await beside.get(number);
  return named && inflate(named[`${kind}-${number}`]);
}

// n numbers that start at byte `at`, decoded from the format of encode_numbers in packing.py.
function numbersAt(bytes, at, n) {
  const numbers = new Uint32Array(n);
  let two = 0,
    long = 0;
  for (let i = 0; i < n; i++) bytes[at + i] === 255 ? long++ : bytes[at + i] >= 128 && two++;
  for (let i = 0, second = at + n, rest = at + n + two; i < n; i++) {
    const first = bytes[at + i];
    if (first < 128) numbers[i] = first;
    else if (first < 255) numbers[i] = 128 + ((first - 128) << 8) + bytes[second++];
    else numbers[i] = bytes[rest] | (bytes[rest + long] << 8) | (bytes[rest++ + 2 * long] << 16);
  }
  return { numbers, end: at + n + two + 3 * long };
}

const metricAt = (key) => DATA.metrics.findIndex((metric) => metric.key === key);

const configurationOf = (key) => DATA.configurations.find((configuration) => configuration.key === key);

const seedOf = (run) => (run.every ? "every" : run.seed);

const total = (number) => DATA.prompts[number].runs.reduce((sum, run) => sum + run.n, 0);

// For each run of a prompt {n, piece, rank, disagrees, drafted}, arrays with one entry per token, or null if its tokens aren't
// available. `disagrees` is 1 where a decided token isn't the most likely one of full depth, `drafted` 1 where a token was
// drafted at an early layer; null if that isn't recorded.
async function coreOf(number) {
  if (!cores.has(number)) {
    const bytes = await blob("core", number),
      n = total(number),
      halves = DATA.layers.length <= 16;
    const ranks = new Uint8Array(n);
    for (let i = 0; bytes && i < n; i++) ranks[i] = halves ? (bytes[i >> 1] >> (4 * (i & 1))) & 15 : bytes[i];
    const pieces = bytes && numbersAt(bytes, halves ? (n + 1) >> 1 : n, n).numbers;
    const flags = async (kind) => {
      const bits = DATA.kinds.includes(kind) ? await blob(kind, number) : null;
      return bits && Uint8Array.from({ length: n }, (_, i) => (bits[i >> 3] >> (i & 7)) & 1);
    };
    const disagrees = await flags("disagree"),
      drafted = await flags("drafted");
    cores.set(
      number,
      DATA.prompts[number].runs.map((run) => {
        const part = (whole) => whole?.subarray(run.start, run.start + run.n);
        if (!run.n || !bytes) return null;
        return {
          n: run.n,
          piece: part(pieces),
          rank: part(ranks),
          disagrees: part(disagrees),
          drafted: part(drafted),
        };
      }),
    );
  }
  return cores.get(number);
}

// A function that gives {kl, probability, saw, logprob, entropy, said, top, read} for token i of a run, with null for what
// wasn't recorded. `saw` is what the rule saw at each layer, null where it looked at none. `top` are the most likely tokens of full depth at each exit rank, `read` those of the distribution
// that the token was read from. `said` is full depth's most likely token, or null if that is the token itself.
async function detailOf(number, run) {
  const n = total(number),
    E = DATA.final;
  if (!details.has(number)) {
    const [kl, prob, more, top, read, evidence] = await Promise.all(
      ["kl", "prob", "more", "top", "read", "evidence"].map((kind) =>
        DATA.kinds.includes(kind) ? blob(kind, number) : null,
      ),
    );
    details.set(number, {
      kl,
      prob,
      more,
      said: more && numbersAt(more, 2 * n, n).numbers,
      likely: top && likelyOf(top, n, E + 1),
      source: read && likelyOf(read, n, 1),
      evidence,
    });
  }
  const { kl, prob, more, said, likely, source, evidence } = details.get(number);
  const own = DATA.configurations[run.c].saw === "evidence";
  return (i) => {
    const at = run.start + i;
    const early = prob && Array.from(prob.subarray(at * E, at * E + E)); // in hundredths
    return {
      kl: kl && Array.from(kl.subarray(at * E, at * E + E), unlog),
      probability: early && [...early, early.reduce((rest, here) => rest - here, 100)].map((part) => part / 100),
      saw: own && evidence ? Array.from({ length: E }, (_, layer) => half(evidence, at * E + layer)) : null,
      logprob: more && -unlog(more[at]),
      entropy: more && unlog(more[n + at]),
      said: said?.[at] ? said[at] - 1 : null,
      top: likely?.(at) ?? null,
      read: source?.(at)?.[0] ?? null,
    };
  };
}

// A function that gives the most likely tokens for token `at` of n, as rows of up to DATA.top tokens each; null if they
// weren't recorded.
function likelyOf(bytes, n, rows) {
  const { numbers, end } = numbersAt(bytes, 0, rows * DATA.top * n);
  return (at) =>
    numbers[at]
      ? Array.from({ length: rows }, (_, row) =>
          Array.from({ length: DATA.top }, (_, j) => (row * DATA.top + j) * n + at)
            .filter((place) => numbers[place])
            .map((place) => ({ piece: numbers[place] - 1, probability: bytes[end + place] / 255 })),
        )
      : null;
}

// Number `at` of an array in half precision, whose high bytes come first; null for NaN.
function half(bytes, at) {
  const high = bytes[at],
    low = bytes[at + bytes.length / 2],
    exponent = (high >> 2) & 31,
    fraction = ((high & 3) << 8) | low,
    size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction / 2 ** 24;
  if (exponent === 31) return fraction ? null : Infinity;
  return high & 128 ? -size : size;
}

// How many tokens two texts have in common at their start.
function sameUntil(one, other) {
  const shorter = Math.min(one.n, other.n);
  let i = 0;
  while (i < shorter && one.piece[i] === other.piece[i]) i++;
  return i;
}

const unlog = (code) => (code ? 2 ** (-10 + ((code - 1) * 16) / 126) : 0);

const pieceText = (piece) => (typeof PIECES[piece] === "number" ? `token ${PIECES[piece]}` : PIECES[piece]);

const textOf = (run, tokens) => (tokens ? Array.from(tokens.piece, (p) => pieceText(p)).join("") : run.text || "");

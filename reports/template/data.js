// The file's blobs: gzip + base64, decoded on demand. Layouts are those of packing.py.

async function inflate(name) {
  const element = document.getElementById("blob-" + name);
  if (!element) return null;
  const bytes = Uint8Array.from(atob(element.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const text = (bytes) => new TextDecoder().decode(bytes);

let DATA = null; // the payload
let PIECES = []; // token texts; a number is the id of a token whose text isn't known
const cores = new Map();
const details = new Map();

async function load() {
  DATA = JSON.parse(text(await inflate("payload")));
  PIECES = JSON.parse(text(await inflate("pieces")));
  DATA.final = DATA.layers.length - 1;
  for (const configuration of DATA.configurations) configuration.label = configuration.key;
  DATA.seeds = [...new Set(DATA.prompts.flatMap((prompt) => prompt.runs.map((run) => run.seed)))];
}

function number3(bytes, at, n) {
  const numbers = new Uint32Array(n);
  for (let i = 0; i < n; i++) numbers[i] = bytes[at + i] | (bytes[at + n + i] << 8) | (bytes[at + 2 * n + i] << 16);
  return numbers;
}

// Per run of a prompt: {piece, rank, drawn}, one entry per token; null where no tokens were recorded.
async function coreOf(promptNumber) {
  if (!cores.has(promptNumber)) {
    const bytes = await inflate("core-" + promptNumber);
    let at = 0;
    cores.set(promptNumber, DATA.prompts[promptNumber].runs.map((run) => {
      const n = run.n;
      if (!n) return null;
      const packed = bytes.subarray(at + 3 * n, at + 4 * n);
      const tokens = { n, piece: number3(bytes, at, n), rank: packed.map((b) => b & 127), drawn: packed.map((b) => +(b < 128)) };
      at += 4 * n;
      return tokens;
    }));
  }
  return cores.get(promptNumber);
}

// Per run of a prompt: what is known of token i, as {kl, probability, logprob, entropy, said}; null without a recording.
async function detailOf(promptNumber) {
  if (!DATA.detail) return null;
  if (!details.has(promptNumber)) {
    const bytes = await inflate("detail-" + promptNumber);
    const E = DATA.final;
    let at = 0;
    details.set(promptNumber, DATA.prompts[promptNumber].runs.map((run) => {
      const n = run.n, start = at;
      at += n * (2 * E + 6);
      if (!n) return null;
      const said = number3(bytes, start + n * (2 * E + 3), n);
      const column = (c, i) => bytes[start + n * c + i];
      return (i) => ({
        kl: Array.from({ length: E }, (_, l) => unlog(column(l, i))),
        probability: Array.from({ length: E + 1 }, (_, l) => column(E + l, i) / 255),
        logprob: -unlog(column(2 * E + 1, i)),
        entropy: unlog(column(2 * E + 2, i)),
        said: said[i] ? said[i] - 1 : null,
      });
    }));
  }
  return details.get(promptNumber);
}

const unlog = (code) => (code ? 2 ** (-10 + ((code - 1) * 15) / 254) : 0);

const pieceText = (piece) => (typeof PIECES[piece] === "number" ? `token ${PIECES[piece]}` : PIECES[piece]);

const textOf = (run, tokens) => (tokens ? Array.from(tokens.piece, (p) => pieceText(p)).join("") : run.text || "");

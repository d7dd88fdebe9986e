// A setting's texts next to full depth's, right or wrong; and the wrong exits of the highest probability.

const TEXTS_AT_ONCE = 4, // rows at first
  LETTERS = 90; // shown of a text

const rightOf = (run) => run.m[metricAt("correct")] ?? null;

const awaited = new Set(); // promises of unfinished drawing, for which printing waits

// Returns a node that fills with `draw` of a promise's value.
function later(promise, draw) {
  const box = h("span");
  const done = promise
    .then((value) => box.replaceChildren(h("span", ...draw(value))))
    .finally(() => awaited.delete(done));
  awaited.add(done);
  return box;
}

const markOf = (run) => {
  const right = rightOf(run);
  if (right === null) return null;
  return right === 1
    ? h("span.right", "✓", h("span.hidden", "right"))
    : h("span.wrong", "✗", h("span.hidden", "wrong"));
};

// Returns the setting to show first: the verdict's, or else the first that exits early.
function firstSetting() {
  const exits = DATA.configurations.filter(({ rule, control_of: of }) => rule !== null && of === null);
  const named = exits.find(({ key }) => key === DATA.verdict?.setting);
  return (named ?? exits[0] ?? DATA.configurations.find(({ key }) => key !== DATA.normal))?.key;
}

// Returns a pair with both texts, and their tokens if the file has them.
async function withTexts(pair) {
  const cores = await coreOf(pair.number);
  const tokensOf = (run) => (run ? cores[pair.prompt.runs.indexOf(run)] : null);
  const [base, one] = [pair.base, pair.one].map(tokensOf);
  const texts = [pair.base && knownText(pair.base, base), knownText(pair.one, one)];
  return { ...pair, texts, tokens: one, baseTokens: base };
}

// Returns a run's text; null if its tokens are in a missing file.
const knownText = (run, tokens) => (run.n && !tokens ? null : textOf(run, tokens));

function isSame(one, base) {
  const at = metricAt("equal_share");
  return at >= 0 && one.m[at] === 1 && one.n === base.n;
}

// Returns the start of the first word that differs; null if none does.
function firstDifference(one, other) {
  let i = sameUntil(one, other);
  if (i === one.length && i === other.length) return null;
  while (i > 0 && i < Math.min(one.length, other.length) && !/\s/.test(one[i - 1])) i--;
  return i;
}

function tokenDifference(one, other) {
  const from = sameUntil(one.piece, other.piece);
  return from < one.n ? from : null;
}

// Returns a part of a text around letter `from`, its first difference from the `other` text. What the other lacks is bold.
function excerpt(text, from, other, most = LETTERS) {
  const start = from !== null && text.length > most && from > most / 2 ? Math.max(0, from - Math.floor(most / 3)) : 0,
    end = Math.min(text.length, start + most);
  const wordsOf = (whole) => {
    const piece = whole.split(/(?=\s)/);
    return { n: piece.length, piece };
  };
  const words = wordsOf(text),
    marks = from === null ? null : compare(words, wordsOf(other)),
    nodes = [];
  for (let i = 0, at = 0; i < words.n && at < end; at += words.piece[i++].length) {
    const shown = oneLine(words.piece[i].slice(Math.max(0, start - at), end - at));
    nodes.push(...(marks && isOwn(marks, i) ? [h("strong", ...shown)] : shown));
  }
  return [start ? "… " : "", ...nodes, end < text.length ? " …" : ""];
}

// Returns a text on one line, with marks for line ends.
const oneLine = (text) => visible(text).map((node) => (node === "\n" ? " " : node));

// Returns the overconfident exits: early, with a high probability, and not full depth's token.
function confidentPart() {
  const found = DATA.confident.map(([number, run, i, sure, full]) => {
    const prompt = DATA.prompts[number];
    return { prompt, number, run: prompt.runs[run], at: run, i, sure, full };
  });
  const keyOf = ({ run }) => DATA.configurations[run.c].key,
    all = "all, each token once",
    keys = [all, ...new Set(found.map(keyOf))];
  const make = (setting) => {
    const seen = new Set();
    const rows = sorted(found, ({ sure, full }) => sure - full, true).filter((row) => {
      if (setting !== all) return keyOf(row) === setting;
      const place = `${row.number} ${row.i}`;
      return !seen.has(place) && seen.add(place);
    });
    return confidentTable(rows);
  };
  return part(
    "confident",
    "Where was it sure, and wrong?",
    chosenBox("Setting", "confident.setting", keys.map(inMenu), make),
  );
}

// Returns a row's token and full depth's token there; neither if they are in a missing file.
async function wrongToken({ number, run, at, i }) {
  const tokens = (await coreOf(number))[at],
    said = tokens && (await detailOf(number, run))(i).said;
  return { tokens, layer: tokens && layerNumber(tokens.rank[i]), said };
}

function confidentTable(rows) {
  const shown = (label, draw) => ({
    label,
    text: true,
    look: () => "words prose",
    value: ({ number }) => number,
    show: (row) => later(wrongToken(row), (found) => (found.tokens ? draw(row, found) : ["not in this file"])),
  });
  const columns = [
    shown("Token", ({ prompt, run, i }, { tokens }) => [
      ...before(tokens, i),
      h("a", { href: address(prompt, run, { t: i }) }, "“", ...alone(tokens.piece[i]), "”"),
    ]),
    shown("Full depth", (_, { said }) => (said === null ? ["–"] : ["“", ...alone(said), "”"])),
    { label: "Sure here", value: ({ sure }) => sure, show: ({ sure }) => percent(sure) },
    { label: "Under full depth", value: ({ full }) => full, show: ({ full }) => percent(full) },
    shown("Layer", (_, { layer }) => [layer]),
    {
      label: "Configuration",
      text: true,
      value: ({ run }) => run.c,
      show: ({ run }) => configurationCell(DATA.configurations[run.c].key),
    },
    {
      label: "Prompt",
      text: true,
      value: ({ number }) => number,
      show: ({ prompt }) => h("a", { href: address(prompt) }, prompt.id),
    },
  ];
  const record = async (row) => {
    const { prompt, run, i, sure, full } = row,
      { tokens, layer, said } = await wrongToken(row);
    return {
      prompt_id: prompt.id,
      configuration: DATA.configurations[run.c].key,
      seed: seedOf(run),
      position: i,
      exit_layer: layer,
      token: tokens ? pieceText(tokens.piece[i]) : null,
      full_depth_token: said === null ? null : pieceText(said),
      at_exit: sure,
      at_full_depth: full,
    };
  };
  const caption = "The wrong exits that were surest; of each setting, eight are held";
  const records = () => Promise.all(rows.map(record));
  return table(caption, columns, rows, { page: TEXTS_AT_ONCE, name: "Sure and wrong", records });
}

// Returns the end of the text before token i.
function before(tokens, i) {
  const text = Array.from(tokens.piece.subarray(Math.max(0, i - 8), i), pieceText).join("");
  return [i > 8 ? "… " : "", ...oneLine(text.slice(-48)), " "];
}

// The overview's sections of words: what a setting wrote beside full depth, right or wrong; and the wrong exits that rules
// were surest of.

const TEXTS_AT_ONCE = 4, // rows, before the reader asks for more
  LETTERS = 130, // of a text that are shown
  LOST = "right at full depth, wrong here",
  GAINED = "wrong at full depth, right here";

const rightOf = (run) => run.m[metricAt("correct")] ?? null;

// What `draw` makes of a promise's value, once it is there.
function later(promise, draw) {
  const box = h("span");
  promise.then((value) => box.replaceChildren(h("span", ...draw(value))));
  return box;
}

const markOf = (run) => {
  const right = rightOf(run);
  if (right === null) return null;
  return right === 1
    ? h("span.right", "✓", h("span.hidden", "right"))
    : h("span.wrong", "✗", h("span.hidden", "wrong"));
};

// The setting whose texts are shown first: the one that the verdict names, or else the first that exits early.
function firstSetting() {
  const exits = DATA.configurations.filter(({ rule, control_of: of }) => rule !== null && of === null);
  const named = exits.find(({ key }) => key === DATA.verdict?.setting);
  return (named ?? exits[0] ?? DATA.configurations.find(({ key }) => key !== DATA.normal))?.key;
}

// The ways of choosing among a setting's runs, the first of which that finds any is shown where the reader chose none: what
// was gained is never shown unasked. Each is {name, title, isSo(its run, full depth's)}.
function textFilters(baseKey) {
  const right = metricAt("correct"),
    marked = right >= 0 && baseKey,
    isRight = (run) => run?.m[right] === 1;
  return [
    marked && {
      name: LOST,
      title: "What was lost, in words",
      isSo: (one, base) => isRight(base) && !isRight(one),
    },
    marked && {
      name: GAINED,
      title: "What was gained, in words",
      isSo: (one, base) => base?.m[right] === 0 && isRight(one),
    },
    baseKey && {
      name: "differ from full depth",
      title: "What changed, in words",
      isSo: (one, base) => base && !isSame(one, base),
    },
    { name: "all", title: "What was written, in words", isSo: () => true },
  ].filter(Boolean);
}

const isDone = ({ status }) => status === "ok";

// Each run of a setting that was done, with that of full depth of the same prompt and seed: {prompt, number, one, base}.
function runsBeside(baseKey, key) {
  return DATA.prompts.flatMap((prompt, number) => {
    const bases = runsOf(prompt, baseKey).filter(isDone);
    return runsOf(prompt, key)
      .filter(isDone)
      .map((one) => ({ prompt, number, one, base: bases.find((base) => one.every || hasSeed(base, one.seed)) }));
  });
}

// A pair with both texts, and their tokens where the file has them.
async function withTexts(pair) {
  const cores = await coreOf(pair.number);
  const tokensOf = (run) => (run ? cores[pair.prompt.runs.indexOf(run)] : null);
  const [base, one] = [pair.base, pair.one].map(tokensOf);
  const texts = [pair.base && knownText(pair.base, base), knownText(pair.one, one)];
  return { ...pair, texts, tokens: one, baseTokens: base };
}

const textRecord = ({ prompt, base, one, texts }) => ({
  prompt_id: prompt.id,
  seed: seedOf(one),
  expected: prompt.answer,
  setting: DATA.configurations[one.c].key,
  full_depth_right: base ? rightOf(base) : null,
  full_depth: texts[0] ?? null,
  right: rightOf(one),
  text: texts[1],
});

function textsPart() {
  const keys = DATA.configurations.map(({ key }) => key).filter((key) => key !== DATA.normal),
    baseKey = configurationOf(DATA.normal)?.key ?? null,
    filters = textFilters(baseKey),
    names = filters.map(({ name }) => name);
  const state = { key: choiceOf("texts.setting", keys, firstSetting()) };
  const found = (name) => state.runs.filter(({ one, base }) => filters[names.indexOf(name)].isSo(one, base));
  const counted = () => {
    const [lost, gained] = [LOST, GAINED].map((name) => names.includes(name) && found(name).length);
    return lost === false ? "" : `: ${lost} lost, ${gained} gained`;
  };
  const noun = DATA.seeds.length > 1 ? "runs" : "prompts";
  const heading = h("h2", { id: "texts", tabindex: -1 }),
    shows = h("span"),
    box = h("div.texts-table");
  const show = () => {
    state.runs = runsBeside(baseKey, state.key);
    const first = names.find((name) => name !== GAINED && found(name).length) ?? "all";
    state.filter = choiceOf("texts.filter", names, first);
    heading.textContent = filters[names.indexOf(state.filter)].title;
    const options = names.map((name) => [name, `${name} (${form(found(name).length, "count")})`]);
    shows.replaceChildren(chooser("Show", options, state.filter, change("filter")));
    const of = `Of ${state.runs.length} ${noun} that this file holds with this setting${counted()}. Bold: what the other text doesn't have.`;
    box.replaceChildren(textsTable(of, found(state.filter), state.key, baseKey));
  };
  const change = (key) => (value) => {
    state[key] = value;
    choose(key === "key" ? "texts.setting" : "texts.filter", value);
    show();
    readdress(pathOf(location.hash));
  };
  show();
  return part("texts", null, [
    heading,
    h("div.row", chooser("Setting", keys.map(inMenu), state.key, change("key")), shows),
    box,
  ]);
}

// null where its tokens are in a file that isn't there.
const knownText = (run, tokens) => (run.n && !tokens ? null : textOf(run, tokens));

function isSame(one, base) {
  const at = metricAt("equal_share");
  return at >= 0 && one.m[at] === 1 && one.n === base.n;
}

function textsTable(caption, rows, key, baseKey) {
  const written = (row, side) => {
    const run = side ? row.one : row.base;
    if (!run) return "–";
    const text = later(withTexts(row), ({ texts }) => {
      const isKnown = texts.every((text) => typeof text === "string");
      return texts[side] === null
        ? ["not in this file"]
        : excerpt(texts[side], isKnown ? firstDifference(...texts) : null, texts[1 - side]);
    });
    return h("span", markOf(run), " ", text);
  };
  const why = ({ prompt, one, number, base }) => {
    const link = h("a", { "aria-label": `Why: ${key} on prompt ${prompt.id}` }, "why");
    link.href = address(prompt, one, { vs: baseKey });
    withTexts({ prompt, one, number, base }).then(({ tokens, baseTokens }) => {
      if (tokens && baseTokens)
        link.href = address(prompt, one, { vs: baseKey, t: tokenDifference(tokens, baseTokens) });
    });
    return link;
  };
  const columns = [
    {
      label: "Prompt",
      text: true,
      value: ({ number }) => number,
      show: ({ prompt, one }) => {
        const expected = prompt.answer === null ? null : h("div.soft", `expected: ${shorten(prompt.answer, 24)}`);
        return h("div", h("a", { href: address(prompt) }, prompt.id), ofSeed(one), expected);
      },
    },
    ...(baseKey ? ["Full depth", key] : [key]).map((label) => ({
      label,
      text: true,
      look: () => "words prose",
      value: ({ base, one }) => (label === key ? rightOf(one) : base && rightOf(base)),
      show: (row) => (label === key ? h("span", written(row, 1), " ", why(row)) : written(row, 0)),
    })),
  ];
  const records = () => Promise.all(rows.map(async (row) => textRecord(await withTexts(row))));
  return table(caption, columns, rows, { page: TEXTS_AT_ONCE, name: "Texts", records });
}

// Where the first word begins that differs; null if none does.
function firstDifference(one, other) {
  const shorter = Math.min(one.length, other.length);
  let i = 0;
  while (i < shorter && one[i] === other[i]) i++;
  if (i === one.length && i === other.length) return null;
  while (i > 0 && i < shorter && !/\s/.test(one[i - 1])) i--;
  return i;
}

function tokenDifference(one, other) {
  const from = sameUntil(one, other);
  return from < one.n ? from : null;
}

// A part of a text around the letter `from`, its first difference from the `other` text; what the other doesn't have is bold.
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

// A text on one line, with marks for its line ends.
const oneLine = (text) => visible(text).map((node) => (node === "\n" ? " " : node));

// The wrong exits that were surest: read early with a high probability, and not what full depth would have said.
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

// A row's token and what full depth would have said there; none of both where they are in a file that isn't there.
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
    { label: "Sure here", value: ({ sure }) => sure, show: ({ sure }) => surely(sure) },
    { label: "Under full depth", value: ({ full }) => full, show: ({ full }) => percent(full) },
    shown("Layer", (_, { layer }) => [layer]),
    {
      label: "Setting",
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

const surely = (share) => (share > 0.9995 ? "> 99.9%" : percent(share));

// The end of the text before token i.
function before(tokens, i) {
  const text = Array.from(tokens.piece.subarray(Math.max(0, i - 8), i), pieceText).join("");
  return [i > 8 ? "… " : "", ...oneLine(text.slice(-48)), " "];
}

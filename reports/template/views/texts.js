// The overview's sections of words: what a setting wrote beside full depth, right or wrong; and the wrong exits that rules
// were surest of.

const TEXTS_AT_ONCE = 4,
  LETTERS = 130; // of a text that are shown

const correctAt = () => DATA.metrics.findIndex(({ key }) => key === "correct");

const showMore = (onclick) => h("button.screen", { type: "button", onclick }, "Show more");

const rightOf = (run) => (correctAt() < 0 ? null : run.m[correctAt()]);

const markOf = (run) => {
  const right = rightOf(run);
  if (right === null) return null;
  return right === 1
    ? h("span.right", {}, "✓", h("span.hidden", {}, "right"))
    : h("span.wrong", {}, "✗", h("span.hidden", {}, "wrong"));
};

// The setting whose texts are shown first: the one that the verdict names, or else the first that exits early.
function firstSetting() {
  const exits = DATA.configurations.filter(({ rule, control_of: of }) => rule !== null && of === null);
  const named = exits.find(({ key }) => key === DATA.verdict?.setting);
  return (named ?? exits[0] ?? DATA.configurations.find(({ key }) => key !== DATA.normal))?.key;
}

function textsPart() {
  const keys = DATA.configurations.map(({ key }) => key).filter((key) => key !== DATA.normal),
    right = correctAt(),
    baseKey = DATA.configurations.some(({ key }) => key === DATA.normal) ? DATA.normal : null;
  const filters = {
    ...(right >= 0 && baseKey
      ? { "right at full depth, wrong here": (one, base) => base?.m[right] === 1 && one.m[right] !== 1 }
      : {}),
    ...(right >= 0 && baseKey
      ? { "wrong at full depth, right here": (one, base) => base?.m[right] === 0 && one.m[right] === 1 }
      : {}),
    ...(baseKey ? { "differ from full depth": (one, base) => base && !isSame(one, base) } : {}),
    all: () => true,
  };
  const firstKey = firstSetting();
  const names = Object.keys(filters);
  const state = {
    key: choice("texts.setting", firstKey),
    filter: choice("texts.filter", null),
    shown: TEXTS_AT_ONCE,
  };
  if (!keys.includes(state.key)) state.key = firstKey;
  const box = h("div"),
    said = h("p.soft", { role: "status" }),
    more = showMore(() => {
      state.shown += 2 * TEXTS_AT_ONCE;
      show();
    });
  const pairs = (filter = state.filter) =>
    DATA.prompts.flatMap((prompt, number) => {
      const base = runsOf(prompt, baseKey).find((run) => run.status === "ok"),
        one = runsOf(prompt, state.key).find((run) => run.status === "ok");
      return one && filters[filter](one, base) ? [{ prompt, number, base, one }] : [];
    });
  if (!names.includes(state.filter)) state.filter = names.find((name) => pairs(name).length) ?? names.at(-1);
  const withTexts = async (pair) => {
    const cores = await coreOf(pair.number);
    const tokensOf = (run) => (run ? cores[pair.prompt.runs.indexOf(run)] : null);
    const [base, one] = [pair.base, pair.one].map(tokensOf);
    const texts = [pair.base && knownText(pair.base, base), knownText(pair.one, one)];
    return { ...pair, texts, tokens: one, baseTokens: base };
  };
  const record = ({ prompt, base, one, texts }) => ({
    prompt_id: prompt.id,
    expected: prompt.answer,
    setting: state.key,
    full_depth_right: base ? rightOf(base) : null,
    full_depth: texts[0] ?? null,
    right: rightOf(one),
    text: texts[1],
  });
  const records = async () => (await Promise.all(pairs().map(withTexts))).map(record);
  let turn = 0;
  async function show() {
    const mine = ++turn,
      found = pairs(),
      shown = found.slice(0, state.shown);
    const rows = await Promise.all(shown.map(withTexts));
    if (mine !== turn) return;
    more.hidden = found.length <= shown.length;
    const of = runsOfKey(state.key);
    said.textContent = `${shown.length} of ${found.length} prompts shown, of ${of} that this file holds with this setting.`;
    box.replaceChildren(shown.length ? textsTable(rows, state.key, baseKey) : h("p", {}, "No prompt is so."));
  }
  const change = (key, name) => (value) => {
    state[key] = value;
    state.shown = TEXTS_AT_ONCE;
    choose(name, value);
    show();
  };
  requestIdleCallback(show, { timeout: 1000 }); // after the charts, which are seen first
  return part("texts", "What was lost, in words", [
    h(
      "div.row",
      {},
      chooser("Setting", keys, state.key, change("key", "texts.setting")),
      chooser("Show", names, state.filter, change("filter", "texts.filter")),
    ),
    box,
    h("div.below", {}, h("span", {}, said, more), savesOf("Texts", records)),
  ]);
}

// null where its tokens are in a file that isn't there.
const knownText = (run, tokens) => (run.n && !tokens ? null : textOf(run, tokens));

const runsOfKey = (key) =>
  DATA.prompts.filter((prompt) => runsOf(prompt, key).some(({ status }) => status === "ok")).length;

function isSame(one, base) {
  const at = DATA.metrics.findIndex(({ key }) => key === "equal_share");
  return at >= 0 && one.m[at] === 1 && one.n === base.n;
}

function textsTable(rows, key, baseKey) {
  const cells = ({ prompt, base, one, texts, tokens, baseTokens }) => {
    const isKnown = texts.every((text) => typeof text === "string"),
      from = isKnown ? firstDifference(...texts) : null,
      t = tokens && baseTokens ? tokenDifference(tokens, baseTokens) : null;
    const written = (run, text) => [markOf(run), " ", ...(text === null ? ["not in this file"] : excerpt(text, from))];
    return h(
      "tr",
      {},
      h(
        "th.words",
        { scope: "row" },
        h("a", { href: address(prompt) }, prompt.id),
        prompt.answer === null ? null : h("div.soft", {}, `expected: ${shorten(prompt.answer, 24)}`),
      ),
      baseKey ? h("td.words.prose", {}, ...(base ? written(base, texts[0]) : ["–"])) : null,
      h(
        "td.words.prose",
        {},
        ...written(one, texts[1]),
        " ",
        h(
          "a",
          { href: address(prompt, one, { vs: baseKey, t }), "aria-label": `Why: ${key} on prompt ${prompt.id}` },
          "why",
        ),
      ),
    );
  };
  return h(
    "div.scroll.texts-table",
    { tabindex: 0, role: "group", "aria-label": "Texts" },
    h(
      "table",
      {},
      h(
        "caption",
        {},
        `Texts of ${key} on prompts${baseKey ? " beside full depth" : ""}; bold: after the first difference.`,
      ),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th.words", { scope: "col" }, "Prompt"),
          baseKey ? h("th.words", { scope: "col" }, "Full depth") : null,
          h("th.words", { scope: "col" }, key),
        ),
      ),
      h("tbody", {}, ...rows.map(cells)),
    ),
  );
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
  const shorter = Math.min(one.n, other.n);
  for (let i = 0; i < shorter; i++) if (one.piece[i] !== other.piece[i]) return i;
  return one.n > shorter ? shorter : null;
}

// A part of a text around the letter `from`, in bold from there on.
function excerpt(text, from, most = LETTERS) {
  const start = from !== null && text.length > most && from > most / 2 ? Math.max(0, from - Math.floor(most / 3)) : 0,
    end = Math.min(text.length, start + most),
    cut = from === null ? end : Math.min(Math.max(from, start), end);
  return [
    start ? "… " : "",
    ...oneLine(text.slice(start, cut)),
    cut < end ? h("strong", {}, ...oneLine(text.slice(cut, end))) : "",
    end < text.length ? " …" : "",
  ];
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
  const last = choice("confident.setting", all),
    state = { key: keys.includes(last) ? last : all, shown: TEXTS_AT_ONCE };
  const box = h("div"),
    said = h("p.soft", { role: "status" }),
    more = showMore(() => {
      state.shown += 2 * TEXTS_AT_ONCE;
      show();
    });
  const chosenRows = () => {
    const seen = new Set();
    return sorted(found, ({ sure, full }) => sure - full, true).filter((row) => {
      if (state.key !== all) return keyOf(row) === state.key;
      const place = `${row.number} ${row.i}`;
      return !seen.has(place) && seen.add(place);
    });
  };
  const records = () =>
    Promise.all(
      chosenRows().map(async ({ prompt, number, run, at, i, sure, full }) => {
        const tokens = (await coreOf(number))[at],
          { said: other } = (await detailOf(number, run))(i);
        return {
          prompt_id: prompt.id,
          configuration: keyOf({ run }),
          seed: run.every ? "every" : run.seed,
          position: i,
          exit_layer: tokens ? layerNumber(tokens.rank[i]) : null,
          token: tokens ? pieceText(tokens.piece[i]) : null,
          full_depth_token: other === null ? null : pieceText(other),
          at_exit: sure,
          at_full_depth: full,
        };
      }),
    );
  let turn = 0;
  async function show() {
    const mine = ++turn,
      rows = chosenRows(),
      shown = await Promise.all(
        rows.slice(0, state.shown).map(async (row) => ({
          ...row,
          tokens: (await coreOf(row.number))[row.at],
          detail: (await detailOf(row.number, row.run))(row.i),
        })),
      );
    if (mine !== turn) return;
    more.hidden = rows.length <= shown.length;
    said.textContent = `${shown.length} of ${rows.length} shown; of each setting, the eight surest are held.`;
    box.replaceChildren(confidentTable(shown.filter(({ tokens }) => tokens)));
  }
  requestIdleCallback(show, { timeout: 1000 }); // after the charts, which are seen first
  return part("confident", "Where was it sure, and wrong?", [
    h(
      "div.row",
      {},
      chooser("Setting", keys, state.key, (value) => {
        state.key = value;
        state.shown = TEXTS_AT_ONCE;
        choose("confident.setting", value);
        show();
      }),
    ),
    box,
    h("div.below", {}, h("span", {}, said, more), savesOf("Sure and wrong", records)),
  ]);
}

function confidentTable(rows) {
  const columns = [
    {
      label: "Token",
      text: true,
      look: () => "words prose",
      value: ({ tokens, i }) => pieceText(tokens.piece[i]),
      show: ({ prompt, run, tokens, i }) =>
        h(
          "span",
          {},
          ...before(tokens, i),
          h("a", { href: address(prompt, run, { t: i }) }, "“", ...alone(tokens.piece[i]), "”"),
        ),
    },
    {
      label: "Full depth",
      text: true,
      value: ({ detail }) => detail.said,
      show: ({ detail }) => (detail.said === null ? "–" : h("span", {}, "“", ...alone(detail.said), "”")),
    },
    { label: "Sure here", value: ({ sure }) => sure, show: ({ sure }) => surely(sure) },
    { label: "Under full depth", value: ({ full }) => full, show: ({ full }) => percent(full) },
    { label: "Layer", value: ({ tokens, i }) => tokens.rank[i], show: ({ tokens, i }) => layerNumber(tokens.rank[i]) },
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
  return table("The wrong exits that were surest", columns, rows, { isPart: true });
}

const surely = (share) => (share > 0.9995 ? "> 99.9%" : percent(share));

// The end of the text before token i.
function before(tokens, i) {
  const text = Array.from(tokens.piece.subarray(Math.max(0, i - 8), i), pieceText).join("");
  return [i > 8 ? "… " : "", ...oneLine(text.slice(-48)), " "];
}

// The overview's sections of words: what a setting wrote beside full depth, right or wrong; and the wrong exits that rules
// were surest of.

const TEXTS_AT_ONCE = 4,
  LETTERS = 130; // of a text that are shown

const rightOf = (run) => run.m[metricAt("correct")] ?? null;

// Rows of which some are shown, and more on demand: `rows()` are all, `load(row)` gets what one needs, `draw(rows)` draws
// some, and `words(shown, all)` tells how many. Gives {box, below, renew()}.
function someOf({ rows, load, draw, words }) {
  const box = h("div"),
    said = h("p.soft", { role: "status" });
  let most = TEXTS_AT_ONCE,
    turn = 0;
  async function show() {
    const mine = ++turn,
      all = rows(),
      some = await Promise.all(all.slice(0, most).map(load));
    if (mine !== turn) return;
    more.hidden = all.length <= some.length;
    said.textContent = words(some.length, all.length);
    box.replaceChildren(draw(some));
  }
  const onclick = () => {
    most += 2 * TEXTS_AT_ONCE;
    show();
  };
  const more = h("button.screen", { type: "button", onclick }, "Show more");
  const renew = () => {
    most = TEXTS_AT_ONCE;
    show();
  };
  requestIdleCallback(show, { timeout: 1000 }); // after the charts, which are seen first
  return { box, below: h("span", said, more), renew };
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

function textsPart() {
  const keys = DATA.configurations.map(({ key }) => key).filter((key) => key !== DATA.normal),
    right = metricAt("correct"),
    baseKey = configurationOf(DATA.normal)?.key ?? null;
  const filters = {
    ...(right >= 0 && baseKey
      ? {
          "right at full depth, wrong here": (one, base) => base?.m[right] === 1 && one.m[right] !== 1,
          "wrong at full depth, right here": (one, base) => base?.m[right] === 0 && one.m[right] === 1,
        }
      : {}),
    ...(baseKey ? { "differ from full depth": (one, base) => base && !isSame(one, base) } : {}),
    all: () => true,
  };
  const firstKey = firstSetting();
  const names = Object.keys(filters);
  const state = { key: choiceOf("texts.setting", keys, firstKey), filter: choice("texts.filter", null) };
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
  const list = someOf({
    rows: pairs,
    load: withTexts,
    draw: (rows) => (rows.length ? textsTable(rows, state.key, baseKey) : h("p", "No prompt is so.")),
    words: (shown, all) =>
      `${shown} of ${all} prompts shown, of ${runsOfKey(state.key)} that this file holds with this setting.`,
  });
  const change = (key) => (value) => {
    state[key] = value;
    choose(key === "key" ? "texts.setting" : "texts.filter", value);
    list.renew();
  };
  return part("texts", "What was lost, in words", [
    h(
      "div.row",
      chooser("Setting", keys, state.key, change("key")),
      chooser("Show", names, state.filter, change("filter")),
    ),
    list.box,
    h("div.below", list.below, savesOf("Texts", records)),
  ]);
}

// null where its tokens are in a file that isn't there.
const knownText = (run, tokens) => (run.n && !tokens ? null : textOf(run, tokens));

const runsOfKey = (key) =>
  DATA.prompts.filter((prompt) => runsOf(prompt, key).some(({ status }) => status === "ok")).length;

function isSame(one, base) {
  const at = metricAt("equal_share");
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
      h(
        "th.words",
        { scope: "row" },
        h("a", { href: address(prompt) }, prompt.id),
        prompt.answer === null ? null : h("div.soft", `expected: ${shorten(prompt.answer, 24)}`),
      ),
      baseKey ? h("td.words.prose", ...(base ? written(base, texts[0]) : ["–"])) : null,
      h(
        "td.words.prose",
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
      h(
        "caption",
        `Texts of ${key} on prompts${baseKey ? " beside full depth" : ""}; bold: after the first difference.`,
      ),
      h(
        "thead",
        h(
          "tr",
          h("th.words", { scope: "col" }, "Prompt"),
          baseKey ? h("th.words", { scope: "col" }, "Full depth") : null,
          h("th.words", { scope: "col" }, key),
        ),
      ),
      h("tbody", ...rows.map(cells)),
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
  const from = sameUntil(one, other);
  return from < one.n ? from : null;
}

// A part of a text around the letter `from`, in bold from there on.
function excerpt(text, from, most = LETTERS) {
  const start = from !== null && text.length > most && from > most / 2 ? Math.max(0, from - Math.floor(most / 3)) : 0,
    end = Math.min(text.length, start + most),
    cut = from === null ? end : Math.min(Math.max(from, start), end);
  return [
    start ? "… " : "",
    ...oneLine(text.slice(start, cut)),
    cut < end ? h("strong", ...oneLine(text.slice(cut, end))) : "",
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
  let setting = choiceOf("confident.setting", keys);
  const chosenRows = () => {
    const seen = new Set();
    return sorted(found, ({ sure, full }) => sure - full, true).filter((row) => {
      if (setting !== all) return keyOf(row) === setting;
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
          seed: seedOf(run),
          position: i,
          exit_layer: tokens ? layerNumber(tokens.rank[i]) : null,
          token: tokens ? pieceText(tokens.piece[i]) : null,
          full_depth_token: other === null ? null : pieceText(other),
          at_exit: sure,
          at_full_depth: full,
        };
      }),
    );
  const list = someOf({
    rows: chosenRows,
    load: async (row) => ({
      ...row,
      tokens: (await coreOf(row.number))[row.at],
      detail: (await detailOf(row.number, row.run))(row.i),
    }),
    draw: (rows) => confidentTable(rows.filter(({ tokens }) => tokens)),
    words: (shown, all) => `${shown} of ${all} shown; of each setting, the eight surest are held.`,
  });
  return part("confident", "Where was it sure, and wrong?", [
    h(
      "div.row",
      chooser("Setting", keys, setting, (value) => {
        setting = value;
        choose("confident.setting", value);
        list.renew();
      }),
    ),
    list.box,
    h("div.below", list.below, savesOf("Sure and wrong", records)),
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
          ...before(tokens, i),
          h("a", { href: address(prompt, run, { t: i }) }, "“", ...alone(tokens.piece[i]), "”"),
        ),
    },
    {
      label: "Full depth",
      text: true,
      value: ({ detail }) => detail.said,
      show: ({ detail }) => (detail.said === null ? "–" : h("span", "“", ...alone(detail.said), "”")),
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

// The overview's sections of words: what a setting wrote beside full depth, right or wrong; and the wrong exits that rules
// were surest of.

const TEXTS_AT_ONCE = 4,
  LETTERS = 130, // of a text that are shown
  LOST = "right at full depth, wrong here",
  GAINED = "wrong at full depth, right here";

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
  const records = async () => (await Promise.all(found(state.filter).map(withTexts))).map(textRecord);
  const counted = () => {
    const [lost, gained] = [LOST, GAINED].map((name) => names.includes(name) && found(name).length);
    return lost === false ? "" : `: ${lost} lost, ${gained} gained`;
  };
  const noun = DATA.seeds.length > 1 ? "runs" : "prompts";
  const list = someOf({
    rows: () => found(state.filter),
    load: withTexts,
    draw: (rows) => (rows.length ? textsTable(rows, state.key, baseKey) : h("p", `No ${noun.slice(0, -1)} is so.`)),
    words: (shown, all) =>
      `${shown} of ${all} ${noun} shown, of ${state.runs.length} that this file holds with this setting${counted()}.`,
  });
  const heading = h("h2", { id: "texts", tabindex: -1 }),
    shows = h("span");
  const settle = () => {
    state.runs = runsBeside(baseKey, state.key);
    const first = names.find((name) => name !== GAINED && found(name).length) ?? "all";
    state.filter = choiceOf("texts.filter", names, first);
    heading.textContent = filters[names.indexOf(state.filter)].title;
  };
  const offer = () => {
    const options = names.map((name) => [name, `${name} (${form(found(name).length, "count")})`]);
    shows.replaceChildren(chooser("Show", options, state.filter, change("filter")));
  };
  const change = (key) => (value) => {
    state[key] = value;
    choose(key === "key" ? "texts.setting" : "texts.filter", value);
    settle();
    if (key === "key") offer();
    readdress(pathOf(location.hash));
    list.renew();
  };
  settle();
  offer();
  return part("texts", null, [
    heading,
    h("div.row", chooser("Setting", keys, state.key, change("key")), shows),
    list.box,
    h("div.below", list.below, savesOf("Texts", records)),
  ]);
}

// null where its tokens are in a file that isn't there.
const knownText = (run, tokens) => (run.n && !tokens ? null : textOf(run, tokens));

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
        ofSeed(one),
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

// The overview's strip: what full depth wrote on a prompt and, beneath it, what a setting wrote, both coloured by exit
// layer.

// It begins with the setting of firstSetting(), and the prompt whose pair ranks highest by tells().
async function textStrip() {
  const baseKey = configurationOf(DATA.normal)?.key ?? null,
    pairsOf = new Map(DATA.configurations.map(({ key }) => [key, stripPairs(baseKey, key)])),
    settings = DATA.configurations.filter(({ key }) => key !== baseKey && pairsOf.get(key).length),
    keys = settings.map(({ key }) => key),
    usual = firstSetting();
  if (!keys.length) return null;
  const asked = h("p.strip-asked"),
    place = h("span.soft", { role: "status" }),
    texts = h("div"),
    state = { key: choiceOf("strip.setting", keys, keys.includes(usual) ? usual : keys[0]) };
  const show = async () => {
    const pairs = pairsOf.get(state.key),
      ids = pairs.map(({ prompt }) => prompt.id),
      [telling] = sorted(pairs, tells, true),
      at = ids.indexOf(choiceOf("strip.prompt", ids, telling.prompt.id)),
      pair = pairs[at];
    Object.assign(state, { ids, at, pair });
    const nodes = await stripTexts(pair);
    if (pair !== state.pair) return; // the reader has turned to another pair
    asked.replaceChildren(...stripPrompt(pair.prompt));
    place.textContent = `${form(at + 1, "count")} of ${form(ids.length, "count")}`;
    texts.replaceChildren(...nodes);
  };
  const turnTo = (at) => {
    choose("strip.prompt", state.ids.at(at % state.ids.length));
    show();
    readdress(pathOf(location.hash));
  };
  const setting = (key) => {
    state.key = key;
    choose("strip.setting", key);
    turnTo(state.at); // the same prompt, if the setting has it
  };
  const arrow = (key, label, sign, by) =>
    h("button", { type: "button", id: TURNS[key], "aria-label": label, onclick: () => turnTo(state.at + by) }, sign);
  await show();
  return h(
    "section.strip",
    { "aria-label": "A text, coloured by exit layer" },
    h(
      "div.row",
      asked,
      chooser(
        "Setting",
        settings.map(({ key, mark }) => [key, shortOf(key) + mark, key]),
        state.key,
        setting,
        "strip-setting",
      ),
      h(
        "span.row.screen",
        arrow("ArrowLeft", "Previous prompt", "←", -1),
        place,
        arrow("ArrowRight", "Next prompt", "→", 1),
      ),
    ),
    texts,
  );
}

const TURNS = { ArrowLeft: "strip-before", ArrowRight: "strip-after" }; // key → button

// Arrow keys turn to another prompt, except within a text or a control that has a use for them.
function turnByKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || !(event.key in TURNS)) return;
  if (event.target === document.body || event.target.matches("main, .strip button")) $(TURNS[event.key])?.click();
}

// Returns the setting's first finished run with tokens for each prompt, with full depth's run.
function stripPairs(baseKey, key) {
  const pairs = runsBeside(baseKey, key).filter(({ one }) => one.n);
  return pairs.filter(({ prompt }, i) => prompt !== pairs[i - 1]?.prompt);
}

// Returns a pair's rank: highest where the setting loses a right answer, then where it is wrong with another text than full
// depth's, then by its early exits.
function tells({ one, base }) {
  const early = one.counts.slice(0, DATA.final).reduce((sum, n) => sum + n, 0) / one.n,
    isWrong = rightOf(one) === 0 && !(base && isSame(one, base));
  return (isWrong ? (base && rightOf(base) === 1 ? 2 : 1) : 0) + early / 2;
}

const stripPrompt = (prompt) => [
  h("a", { href: address(prompt) }, ...oneLine(promptName(prompt, MOST_LETTERS))),
  prompt.answer === null ? "" : h("span.soft", "  expected: ", ...oneLine(shorten(prompt.answer, 24))),
];

// Returns both texts, the legend, and a line on the token under the pointer, or on the one that keys select.
async function stripTexts({ prompt, number, one, base }) {
  const cores = await coreOf(number),
    tokensOf = (run) => cores[prompt.runs.indexOf(run)] ?? null,
    said = h("p.soft.screen", { "aria-live": "polite" }, STRIP_HELP),
    vs = base && versus(one, base);
  const row = (run, other, name, side) => {
    const tokens = tokensOf(run),
      link = (i) => address(prompt, one, { vs, [side]: i }),
      bare = () => (run.n ? notThere(number) : h("div.tokens", ...visible(run.text || "")));
    return h(
      "div.strip-row",
      h("p", markOf(run), h("a", { href: link(), title: runName(run) }, name)),
      tokens ? stripText(run, tokens, { other: tokensOf(other), number, link, said }) : bare(),
    );
  };
  return [
    ...(base ? [row(base, one, "full depth", "o")] : []),
    row(one, base, runShown(one), "t"),
    h("div.row", legend(null, null), said),
  ];
}

const STRIP_HELP = "Hover over a token, or focus a text and use the arrow keys; a click or Enter opens the run.";

// Returns a text that describes its tokens in `said`; a click follows `link` of a token.
function stripText(run, tokens, { other, number, link, said }) {
  const marks = other ? compare(tokens, other) : { from: -1, same: new Set() },
    box = tokenText(run, tokens, `Tokens of ${runName(run)}`, marks);
  let now = null;
  const tell = async (i) => {
    now = i;
    const detail = await detailOf(number, run);
    if (now === i) said.replaceChildren(...tokenLine(run, tokens, detail(i), i));
  };
  const go = (i) => {
    box.querySelector(".pinned")?.classList.remove("pinned");
    now = i;
    if (i === null) return said.replaceChildren(STRIP_HELP);
    const span = box.querySelector(`[data-i="${i}"]`);
    span.classList.add("pinned");
    reveal(span);
    return tell(i);
  };
  const open = (i) => {
    location.hash = link(i);
  };
  const on = (kind, act) => box.addEventListener(kind, act);
  const ofToken = (act) => (event) => placeInText(event.target) !== null && act(placeInText(event.target));
  steps(
    box,
    tokens,
    () => now,
    go,
    () => null,
  ); // a click doesn't select
  on("focus", () => box.matches(":focus-visible") && go(marks.from < 0 ? 0 : Math.min(marks.from, tokens.n - 1)));
  on("blur", () => go(null));
  on("keydown", ({ key }) => key === "Enter" && open(now));
  on("pointerover", ofToken(tell));
  on(
    "click",
    ofToken((i) => getSelection().isCollapsed && open(i)),
  );
  requestAnimationFrame(() => {
    const mark = box.querySelector(".differs")?.getBoundingClientRect(),
      { top, height } = box.getBoundingClientRect();
    if (mark && mark.bottom > top + height) box.scrollTop += mark.top - top - height / 3;
  });
  return box;
}

// Returns a token's layer, exit score or KL there, and full depth's token, as one line.
function tokenLine(run, tokens, { kl, scores, logprob, said }, i) {
  const rank = tokens.rank[i],
    configuration = DATA.configurations[run.c],
    last = scores ? scores.findLastIndex((value, layer) => value !== null && layer <= rank) : -1,
    facts = [`layer ${DATA.layers[rank]}`];
  if (i < run.undrawn) facts.push("always, as the first token");
  if (last >= 0) {
    const at = last < rank ? ` after layer ${DATA.layers[last]}` : "";
    facts.push(
      `${DATA.rules[configuration.rule]?.score_name ?? "exit score"}: ${besideThreshold(scores[last], last === rank, configuration)}${at}`,
    );
  }
  if (kl && rank < DATA.final) facts.push(`KL ≈ ${nats(kl[rank])} nats`);
  const instead = said === null ? ["the same"] : ["“", ...alone(said), "”"];
  return [
    h(`span.swatch.c${rank}`),
    h("span.piece", "“", ...alone(tokens.piece[i]), "”"),
    ` ${facts.join(" · ")}`,
    ...(logprob === null || configuration.mode === DATA.normal ? [] : [" · full depth predicts ", ...instead]),
  ];
}

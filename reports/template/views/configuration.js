// The page of one run, alone or side by side with another:
// #/p/<id>/<configuration>[/s/<seed>][/vs/<configuration>[~<seed>]][/t/<token> or /o/<token of the other run>].

async function configurationPage(number, run, { vs, t, o }) {
  const prompt = DATA.prompts[number],
    name = runName(run),
    others = prompt.runs.filter((r) => r !== run && r.status === "ok"),
    near = neighbours(number, (at) => sameSetting(at, run, vs));
  const page = [
    trail(h("a", { href: address(prompt) }, `Prompt ${prompt.id}`), name),
    h("h1", `${name} on prompt ${prompt.id}`),
    h("p.row", ...near, near.some(Boolean) && h("span.soft", "with this setting")),
    h("blockquote", { tabindex: 0, role: "group", "aria-label": "Prompt" }, ...visible(prompt.text)),
  ];
  if (run.status !== "ok")
    return [
      ...page,
      h("h2", "This run failed"),
      h("pre.error", { tabindex: 0 }, ...visible(run.error || "no reason given")),
    ];
  const cores = await coreOf(number),
    tokens = cores[prompt.runs.indexOf(run)];
  if (!tokens)
    return [
      ...page,
      run.n ? notThere(number) : h("p.soft", "Its tokens weren't recorded."),
      h("div.tokens", ...visible(run.text || "")),
    ];
  const named = vs && others.find((other) => versus(run, other) === vs);
  if (vs && !named) page.push(notice(`There is no ${vs} to compare with on this prompt.`));
  const base =
    named || others.find((other) => DATA.configurations[other.c].mode === DATA.normal && hasSeed(other, run.seed));
  const other = base ? cores[prompt.runs.indexOf(base)] : null;
  const difference = other ? compare(tokens, other) : { from: -1, same: new Set(), sameOther: new Set() };
  const sides = [{ side: "t", run, tokens, same: difference.same, at: t }];
  if (other && named) sides.push({ side: "o", run: base, tokens: other, same: difference.sameOther, at: o });
  for (const {
    tokens: { n },
    at,
  } of sides)
    if (at >= n) page.push(notice(`There is no token ${at + 1}: the text has ${n}.`));
  page.push(
    outcome(prompt, run, agreement(difference, other && base)),
    h("p.row.screen", comparison(prompt, run, others, named, t)),
  );
  const pane = h("aside.pane", { "aria-label": "Token", tabindex: 0, "aria-live": "polite" }),
    details = await Promise.all(sides.map((one) => detailOf(number, one.run)));
  sides.forEach((one, i) => {
    one.detail = details[i];
    one.box = tokenText(one.run, one.tokens, `Tokens of ${runName(one.run)}`, {
      from: difference.from,
      same: one.same,
    });
    one.grid = layerGrid(one.run, one.tokens, one.detail);
  });
  pin(prompt, run, named ? vs : null, sides, difference.from, pane);
  const texts = sides.map((one) =>
    h(
      "section",
      h("h2", runName(one.run)),
      one.box,
      draftedTokens(one.run, one.tokens),
      disagreements(one.run, one.tokens, one.box),
      one === sides[0] && h("p.row.screen", ...savesOfTokens(number, run)),
    ),
  );
  const ways = h("div.ways.row", legend(run.counts, document.body), h("span.row.screen", ...toggles()));
  return [
    ...page,
    h(sides.length > 1 ? "div.reading.two" : "div.reading", h("div.texts", ...texts), ways, pane),
    ...sides.map(({ grid }) => grid.details),
  ];
}

// Returns the address of the same comparison on another prompt; null if that prompt lacks the run.
function sameSetting(prompt, { c, every, seed }, vs) {
  const other = prompt.runs.find((run) => run.c === c && (every || hasSeed(run, seed)));
  return other ? address(prompt, other, { vs }) : null;
}

const notice = (words) => h("p.bad", { role: "status" }, words);

const IN_LINE = ["n_tokens", "exit_rate", "mean_depth", "disagreement"]; // metrics in the line

// Returns a line with the answer and the main numbers, which opens to all that is recorded about the run.
function outcome(prompt, run, words) {
  const measured = DATA.metrics.flatMap((metric, i) =>
    run.m[i] === null ? [] : [[metric, formed(run.m[i], metric.form)]],
  );
  const line = measured
    .filter(([{ key }]) => IN_LINE.includes(key))
    .map(([{ label }, value]) => `${label.toLowerCase()} ${value.textContent}`);
  const mark = markOf(run);
  return h(
    "details.outcome",
    { open: choice("run.numbers", false), ontoggle: (event) => choose("run.numbers", event.target.open) },
    h(
      "summary",
      mark,
      mark ? " " : null,
      [...line, run.finish ? `ended: ${ending(run)}` : null].filter(Boolean).join(" · "),
      words ? `. ${words}` : "",
    ),
    numbers(measured.map(([{ label }, value]) => [label, value])),
    ...verdicts(prompt, run),
    ...run.notes.map(([label, note]) => h("p", `${label}: `, ...visible(String(note)))),
  );
}

function agreement(difference, base) {
  if (!base) return "";
  if (difference.from < 0) return `Identical to ${runName(base)}.`;
  if (!difference.from)
    return `Differs from ${runName(base)} from the first token on; after that ${difference.same.size} match it, the others are bold.`;
  const first = difference.from === 1 ? "the first token" : `the first ${difference.from} tokens`;
  return `Identical to ${runName(base)} for ${first}; after that ${difference.same.size} match it again, the others are bold.`;
}

function comparison(prompt, run, others, named, t) {
  const names = [["", "nothing"], ...others.map((other) => [versus(run, other), runShown(other), runName(other)])],
    beside = (vs) => {
      location.hash = address(prompt, run, { vs, t });
    };
  return chooser("Side by side with", names, named ? versus(run, named) : "", beside, "versus");
}

const savesOfTokens = (number, run) =>
  ["csv", "json"].map((type) =>
    h("button", { type: "button", onclick: () => saveTokens(number, run, type) }, `${type.toUpperCase()} of tokens`),
  );

// Ways of showing a text, which are classes of the page's body.
function toggles() {
  return Object.entries({ numbers: "Layer numbers", filled: "Fill final layer" }).map(([option, label]) => {
    const isOn = () => choice(option, false),
      show = () => document.body.classList.toggle(option, isOn());
    show();
    return toggle(label, isOn, () => {
      choose(option, !isOn());
      show();
    });
  });
}

// Selects ("pins") a token of one of the texts: marks it, describes it in the pane and puts it into the address, without
// drawing the page again. If the address has no token and the pane fits next to the text, the first difference is selected,
// and the address stays. While the pointer is over another token, the pane describes that token.
function pin(prompt, run, vs, sides, from, pane) {
  const closing = h("button.close", { type: "button", "aria-label": "Close", onclick: () => unpin?.() }, "×");
  const addressed = sides.find(({ tokens, at }) => at !== null && at < tokens.n);
  let now = addressed ?? (matchMedia(NARROW_PAGE).matches ? null : firstOfInterest(sides, from));
  const describe = (one, i) =>
    pane.replaceChildren(
      one && one === now && i === now.at ? closing : "",
      ...(one ? tokenPane(one.run, one.tokens, one.detail, i, sides.length > 1 && runName(one.run)) : HELP()),
    );
  const show = () => {
    for (const { box } of sides) for (const old of box.querySelectorAll(".pinned")) old.classList.remove("pinned");
    pane.classList.toggle("empty", !now);
    unpin = now ? () => now.go(null) : null;
    describe(now, now?.at);
    for (const one of sides) {
      one.grid.at = one === now ? one.at : null;
      one.grid.mark(one.grid.at);
    }
    if (!now) return;
    const span = now.box.querySelector(`[data-i="${now.at}"]`);
    span.classList.add("pinned");
    reveal(span);
  };
  for (const one of sides) {
    one.go = (i) => {
      now = i === null ? null : one;
      one.at = i;
      readdress(address(prompt, run, { vs, [one.side]: i }));
      show();
    };
    const look = (i) => {
      pane.style.minHeight = `${pane.offsetHeight}px`; // so that the content below doesn't move
      if (i === null) describe(now, now?.at);
      else describe(one, i);
    };
    for (const [box, placeOf] of [
      [one.box, placeInText],
      [one.grid.box, positionOf],
    ]) {
      steps(box, one.tokens, () => one.at, one.go, placeOf);
      hovers(box, placeOf, look);
    }
  }
  queueMicrotask(show);
}

// Returns the text and position to select if the address names none: the first difference, or else the first early exit, or
// the first decided token.
function firstOfInterest(sides, from) {
  const one = sides.find(({ tokens }) => from >= 0 && from < tokens.n) ?? sides[0],
    early = one.tokens.rank.findIndex((rank) => rank !== DATA.final);
  if (from >= 0 && from < one.tokens.n) one.at = from;
  else one.at = early >= 0 ? early : Math.min(one.run.undrawn, one.tokens.n - 1);
  return one;
}

let unpin = null; // deselects the pinned token, if any

const NARROW_PAGE = "(max-width: 900px)"; // the panel covers the text, and a tap outside closes it

function closePaneBeside(event) {
  if (!unpin || !matchMedia(NARROW_PAGE).matches) return;
  if (!event.target.closest(".pane, .t, .grid, a, button, select, label, summary")) unpin();
}

const HELP = () => [
  h("h2", "Token"),
  h(
    "p.soft",
    "Click a token, or focus the text and use the arrow keys; n: next early exit, d: next token that differs from full depth's prediction, Esc: deselect.",
  ),
];

const MOST_CELLS = 16e6; // longer texts aren't aligned, since the table would need more bytes than this

// Returns `from`, the first position that differs (-1: none), and `same` and `sameOther`, the later positions in each text of
// a longest common subsequence.
function compare(one, other) {
  const from = sameUntil(one.piece, other.piece),
    same = new Set(),
    sameOther = new Set();
  if (from === one.n && from === other.n) return { from: -1, same, sameOther };
  const n = one.n - from,
    m = other.n - from;
  if (n * m > MOST_CELLS) return { from, same, sameOther };
  const step = new Uint8Array(n * m); // 1: match, 2: skip a token of one, 3: skip a token of the other
  let below = new Uint32Array(m + 1);
  for (let i = n - 1; i >= 0; i--) {
    const row = new Uint32Array(m + 1);
    for (let j = m - 1; j >= 0; j--) {
      const equal = one.piece[from + i] === other.piece[from + j];
      row[j] = equal ? below[j + 1] + 1 : Math.max(below[j], row[j + 1]);
      step[i * m + j] = equal ? 1 : below[j] >= row[j + 1] ? 2 : 3;
    }
    below = row;
  }
  for (let i = 0, j = 0; i < n && j < m; ) {
    const way = step[i * m + j];
    if (way === 1) {
      same.add(from + i);
      sameOther.add(from + j);
    }
    if (way !== 3) i++;
    if (way !== 2) j++;
  }
  return { from, same, sameOther };
}

// A text as one span per token, coloured by exit rank; the legend of these colours; and the pane that describes one token.

const PARTS = { thinking: "Chain of thought", answer: "Answer" };

// `marks` is {from, same}: the first position that differs (-1: none), and the set of later positions that match again.
// Tokens that the other text lacks are bold.
function tokenText(run, tokens, label, marks) {
  const box = h("div.tokens", { tabindex: 0, role: "group", "aria-label": label });
  const parts = new Map(run.parts);
  for (let i = 0; i < tokens.n; i++) {
    if (parts.has(i)) box.append(h("span.part", PARTS[parts.get(i)]));
    if (i === marks.from) box.append(h("span.differs", "differs from here"));
    const span = h(`span.t.r${tokens.rank[i]}`, { "data-i": i, "data-l": layerNumber(tokens.rank[i]) });
    if (i < run.undrawn) span.classList.add("undrawn");
    if (tokens.disagrees?.[i]) span.classList.add("disagrees");
    if (tokens.drafted?.[i]) span.classList.add("drafted");
    if (isOwn(marks, i)) span.classList.add("own");
    const nodes = inText(pieceText(tokens.piece[i])),
      ends = nodes.at(-1) === "\n";
    span.append(...(ends ? nodes.slice(0, -1) : nodes));
    box.append(span, ends ? "\n" : ""); // after the span, so that the layer's number stays on the line of the token
  }
  if (marks.from === tokens.n) box.append(h("span.differs", "ends here, the other goes on"));
  return box;
}

// True if the other text lacks position i of this one.
const isOwn = ({ from, same }, i) => from >= 0 && i >= from && !same.has(i);

// Returns a sentence on how many tokens differ from full depth's most likely one, with a button to the next of them.
function disagreements(run, tokens, box) {
  if (!tokens.disagrees || tokens.n <= run.undrawn) return null;
  const n = tokens.disagrees.reduce((sum, one) => sum + one, 0),
    of = `${form(tokens.n - run.undrawn, "count")} decided tokens`;
  if (!n) return h("p.soft", `Full depth predicts each of the ${of}.`);
  const next = () => {
    box.focus({ preventScroll: true });
    box.dispatchEvent(new KeyboardEvent("keydown", { key: "d" }));
  };
  return h(
    "p.soft",
    h("span.disagrees", "Overlined"),
    `: ${form(n, "count")} of the ${of} (${form(n / (tokens.n - run.undrawn), "share")}) differ from full depth's prediction.`,
    h("button.next.screen", { type: "button", onclick: next }, "Next (d)"),
  );
}

// Returns a sentence on how many tokens of a text were drafted; null for a run without drafts.
function draftedTokens(run, tokens) {
  const configuration = DATA.configurations[run.c];
  if (!tokens.drafted || configuration.mode !== DATA.draft) return null;
  const n = tokens.drafted.reduce((sum, one) => sum + one, 0),
    decided = tokens.n - run.undrawn;
  return h(
    "p.soft",
    h("span.t.drafted", "Shaded"),
    `: ${form(n, "count")} of ${form(decided, "count")} decided tokens (${form(decided && n / decided, "share")}) were drafted after layer ${configuration.draft_layer}, and full depth agreed.`,
  );
}

const layerNumber = (rank) => DATA.layers[rank].split(" ")[0];

// Returns the legend of exit layers, with each one's number of tokens if there are `counts`. With a `target`, a click on a
// layer dims the tokens of all other layers there.
function legend(counts, target) {
  const item = (rank) => {
    const content = [
      h(`span.swatch.c${rank}`),
      DATA.layers[rank],
      counts ? h("span.soft", ` × ${counts[rank]}`) : null,
    ];
    if (!target) return h("li", ...content);
    const only = h(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        onclick: () => {
          const on = only.getAttribute("aria-pressed") !== "true";
          for (const other of list.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
          only.setAttribute("aria-pressed", String(on));
          target.className = target.className.replace(/ ?only\d+/, "") + (on ? ` only${rank}` : "");
        },
      },
      ...content,
    );
    return h("li", only);
  };
  const list = h("ul.legend", { "aria-label": "Exit layer" }, ...DATA.layers.map((_, rank) => item(rank)));
  return h("div.row", h("span.soft", "Exit layer"), list);
}

// Returns a single token, with marks for the blanks at its ends.
function alone(piece) {
  const text = pieceText(piece);
  return /^[ \u00a0]+$/.test(text)
    ? [h("span.mark", text.replaceAll(" ", "␣").replaceAll("\u00a0", "⟨A0⟩"))]
    : spaced(text);
}

// Returns a token among others: the blank before a word shows as a gap, and any other blank is marked.
function inText(text) {
  return /^ [^ ]/.test(text) ? [" ", ...spaced(text.slice(1))] : spaced(text);
}

// Returns all that is recorded about token i. Its numbers are rounded, see packing.py.
function tokenPane(run, tokens, detail, i, name) {
  const rank = tokens.rank[i],
    drawn = i >= run.undrawn,
    configuration = DATA.configurations[run.c];
  const lines = [
    h("h2.piece", "“", ...alone(tokens.piece[i]), "”"),
    h(
      "p",
      (name ? `${name}: token` : "Token") +
        ` ${i + 1} of ${tokens.n} (position ${i}), read after layer ${DATA.layers[rank]}.` +
        (drawn ? "" : " First token: always from the final layer.") +
        (tokens.drafted?.[i] ? ` Drafted after layer ${configuration.draft_layer}; full depth agreed.` : ""),
    ),
  ];
  if (!detail) return lines;
  const known = detail(i);
  if (known.kl || known.probability || known.top) lines.push(layerTable(known, rank, configuration));
  if (known.top && !known.read && configuration.mode !== DATA.normal) {
    lines.push(
      h(
        "p.soft",
        "The distribution that this token was read from (the early-exit pass's) wasn't recorded. Sweeps record it with this version and --record-top-k.",
      ),
    );
  }
  return known.logprob === null ? lines : [...lines, fullDepth(known)];
}

// Returns a row for the full-depth pass at each layer. The exit layer also has a row for the early-exit pass, if its
// distribution differs.
function layerTable({ kl, probability: drawnFrom, scores, top, read }, rank, { rule, parameter, score_kind: from }) {
  const highest = kl && Math.max(1, ...kl),
    hasScores = scores?.some((value) => value !== null),
    certain = hasScores && drawnFrom?.every((chance) => chance === 0 || chance === 1),
    probability = certain ? null : drawnFrom, // the highlighted row shows it already
    across = [kl, hasScores, probability].filter(Boolean).length,
    earlyExit = top && read && !alike(top[rank], read);
  const bar = (value, share, r) => {
    const fill = h(`span.bar.c${r}`);
    fill.style.width = `${100 * share}%`;
    return h("td", h("span", value), fill);
  };
  const last = (r) => r === DATA.final;
  const unseen = (r) => hasScores && !DATA.rules[rule]?.oracle && r > rank; // an online rule computes no score beyond the exit
  const said = (likely) =>
    h(
      "td.words",
      ...likely.map(({ piece, probability }) =>
        h("div", h("span.piece", ...alone(piece)), h("span.soft", ` ${percent(probability)}`)),
      ),
    );
  const name = (r, who) =>
    h("th", { scope: "row" }, h(`span.swatch.c${r}`), DATA.layers[r], who ? h("div.who", who) : null);
  const rows = DATA.layers.flatMap((_, r) => {
    const here = r === rank,
      fullDepth = h(
        here && !earlyExit ? "tr.here" : "tr",
        name(r, here && earlyExit ? "full depth" : null),
        kl && bar(last(r) ? "0" : nats(kl[r]), last(r) ? 0 : kl[r] / highest, r),
        hasScores &&
          h("td", last(r) || scores[r] === null ? "–" : besideThreshold(scores[r], r === rank, { rule, parameter })),
        probability && (unseen(r) ? h("td", "–") : bar(`${Math.round(100 * probability[r])}%`, probability[r], r)),
        top && said(top[r]),
      );
    return here && earlyExit
      ? [
          fullDepth,
          h(
            "tr.here",
            name(r, "early exit"),
            across ? h("td", { colspan: across }, "read from this") : null,
            said(read),
          ),
        ]
      : [fullDepth];
  });
  const heads = [
    "Layer",
    kl && "≈\u00a0KL, nats",
    hasScores && `Exit score${DATA.rules[rule]?.score_name ? `: ${DATA.rules[rule].score_name}` : ""}`,
    probability && "≈\u00a0Exit proba\u00adbility",
    top && "Top tokens",
  ];
  const caption =
    "At each layer: the full-depth pass. " +
    (from === "kl" ? "The rule decides by the KL. " : "") +
    (hasScores
      ? `The exit score is the ${DATA.rules[rule]?.oracle ? "full-depth" : "early-exit"} pass's; –: the rule read nothing. `
      : "") +
    (earlyExit
      ? "Highlighted: the early-exit pass, whose earlier exits changed what it attends to; the token was read from it."
      : `Highlighted: where the token was read${read ? "; the early-exit pass predicts the same there." : "."}`);
  return h(
    top ? (hasScores && probability ? "table.likely.five" : "table.likely") : "table",
    h("caption", caption),
    h(
      "thead",
      h("tr", ...heads.map((head) => head && h(head === "Top tokens" ? "th.words" : "th", { scope: "col" }, head))),
    ),
    h("tbody", ...rows),
  );
}

// Returns the exit score, compared with the threshold if there is one. It has more digits where both would look equal.
function besideThreshold(value, exits, { rule, parameter }) {
  const compares = DATA.rules[rule]?.compares;
  if (!compares) return seen(value);
  const sign = exits ? compares : { "≥": "<", "≤": ">" }[compares],
    near = seen(value) === seen(parameter) && !exits ? value.toPrecision(6) : seen(value);
  return `${near} ${sign} ${parameter}${exits ? ": exits" : ""}`;
}

// True if the tokens are equal, and their probabilities up to rounding.
const alike = (one, other) =>
  one.length === other.length &&
  one.every(
    ({ piece, probability }, j) => piece === other[j].piece && Math.abs(probability - other[j].probability) < 0.01,
  );

function fullDepth({ logprob, entropy, said }) {
  const facts = [
    ["Log-probability under full depth", `≈ ${logprob === 0 ? "0" : `−${nats(-logprob)}`} nats`],
    ["Entropy of full depth", `≈ ${nats(entropy)} nats`],
    ["Full depth predicts", said === null ? "the same" : h("span", "“", ...alone(said), "”")],
  ];
  return h("dl", ...defined(facts));
}

const seen = (value) => String(+value.toPrecision(3));
const nats = (value) => (value === 0 ? "< 0.001" : String(+value.toPrecision(2)));
const percent = (share) =>
  share < 0.002
    ? "< 0.2%"
    : share > 0.9995
      ? "> 99.9%"
      : `${(100 * share).toFixed(share < 0.01 || share > 0.99 ? 1 : 0)}%`;

// Keys that select a token in a text, which is a single tab stop: arrows, Home, End, n for the next early exit, d for
// the next token that isn't full depth's, and Escape to deselect.
function steps(box, tokens, at, go, placeOf) {
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const now = at();
    const after = (wanted) =>
      Array.from({ length: tokens.n }, (_, i) => i).find((i) => i > (now ?? -1) && wanted(i)) ?? now;
    const early = (i) => tokens.rank[i] !== DATA.final,
      disagrees = (i) => tokens.disagrees?.[i];
    const next = {
      ArrowRight: (now ?? -1) + 1,
      ArrowLeft: (now ?? 1) - 1,
      Home: 0,
      End: tokens.n - 1,
      n: after(early),
      d: after(disagrees),
      Escape: null,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    go(next === null ? null : Math.max(0, Math.min(tokens.n - 1, next)));
  });
  box.addEventListener("click", (event) => {
    const i = placeOf(event.target);
    if (i !== null && getSelection().isCollapsed) go(i === at() ? null : i); // a second tap closes the panel
  });
}

// Calls back with the token under the pointer, or null when the pointer leaves. A finger selects instead.
function hovers(box, placeOf, look) {
  box.addEventListener("pointerover", ({ target, pointerType }) => {
    if (pointerType !== "touch" && !matchMedia(NARROW_PAGE).matches) look(placeOf(target));
  });
  box.addEventListener("pointerleave", () => look(null));
}

function placeInText(target) {
  const span = target.closest(".t");
  return span && +span.dataset.i;
}

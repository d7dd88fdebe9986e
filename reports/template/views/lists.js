// The pages of search (#/s/<text>, or #/w/<text> for whole words), of failed runs (#/fail) and of methods (#/methods).

const HITS_AT_ONCE = 200,
  MOST_HITS = 5000;

const searchAddress = (query, whole) => `#/${whole ? "w" : "s"}/${encodeURIComponent(query)}`;

// Returns every occurrence of the query in prompts and generated texts, in the order of the prompts.
async function searchPage(query, whole) {
  const pattern = patternOf(query, whole),
    hits = [],
    counts = { hits: 0, texts: 0, prompts: 0, searched: 0 };
  const look = (text, kind, found) => {
    const before = counts.hits;
    for (const {
      index,
      0: { length },
    } of text.matchAll(pattern))
      if (++counts.hits <= MOST_HITS) hits.push({ ...found, text, at: index, length });
    if (counts.hits > before) counts[kind]++;
  };
  for (let number = 0; query && number < DATA.prompts.length; number++) {
    const prompt = DATA.prompts[number],
      cores = await coreOf(number);
    look(prompt.text, "prompts", { prompt });
    prompt.runs.forEach((run, i) => {
      counts.searched++;
      look(textOf(run, cores[i]), "texts", { prompt, run, tokens: cores[i] });
    });
  }
  const many = (n, noun) => `${form(n, "count")} ${noun}${n === 1 ? "" : "s"}`;
  const box = h("input", {
    type: "checkbox",
    id: "whole",
    checked: whole,
    onchange: () => {
      location.hash = searchAddress(query, box.checked);
    },
  });
  return [
    h("h1", `Texts with “${query}”`),
    h(
      "p",
      query
        ? `${many(counts.hits, "place")} in ${form(counts.texts, "count")} of ${many(counts.searched, "generated text")} and in ${many(counts.prompts, "prompt")}.`
        : "No text to search for.",
    ),
    h("p.row.screen", h("label", box, " Whole words")),
    ...(DATA.prompts.length < DATA.counts.prompts ? [h("p.soft", held())] : []),
    ...hitList(hits, counts.hits),
  ];
}

function patternOf(query, whole) {
  const literal = query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  return new RegExp(whole ? `(?<![\\p{L}\\p{N}_])${literal}(?![\\p{L}\\p{N}_])` : literal, "giu");
}

// Returns a list of the first hits, with a button for more.
function hitList(hits, found) {
  const list = h("ul.hits"),
    said = h("p.soft", { role: "status" }),
    next = h("button.screen", { type: "button", onclick: () => more() }, `Show ${HITS_AT_ONCE} more`);
  const more = () => {
    list.append(...hits.slice(list.children.length, list.children.length + HITS_AT_ONCE).map(hit));
    next.hidden = list.children.length === hits.length;
    said.textContent =
      list.children.length < found ? `The first ${form(list.children.length, "count")} are shown.` : "";
  };
  more();
  return [list, said, next];
}

function hit({ prompt, run, tokens, text, at, length }) {
  const t = tokens ? tokenAt(tokens, at) : null;
  const around = [
    text.slice(Math.max(0, at - 60), at),
    text.slice(at, at + length),
    text.slice(at + length, at + length + 60),
  ];
  const name = run
    ? `${runName(run)} on prompt ${prompt.id}${t === null ? "" : `, token ${t + 1}`}`
    : `Prompt ${prompt.id} itself`;
  return h(
    "li",
    h("a", { href: run ? address(prompt, run, { t }) : address(prompt) }, name),
    ": ",
    ...visible(around[0]),
    h("mark", ...visible(around[1])),
    ...visible(around[2]),
  );
}

// Returns the token that contains the character at index `at` of the text.
function tokenAt(tokens, at) {
  for (let end = 0, i = 0; i < tokens.n; i++) {
    end += pieceText(tokens.piece[i]).length;
    if (end > at) return i;
  }
  return null;
}

function failuresPage() {
  const rows = DATA.failures.map((failure) => {
    const prompt = DATA.prompts.find(({ id }) => id === failure.prompt);
    const run = prompt?.runs.find((r) => r.c === failure.c && r.seed === failure.seed);
    return { ...failure, name: `${runName(failure)} on prompt ${failure.prompt}`, link: run && address(prompt, run) };
  });
  const columns = [
    {
      label: "Run",
      text: true,
      value: ({ name }) => name,
      show: ({ name, link }) => (link ? h("a", { href: link }, name) : name),
    },
    {
      label: "Error",
      text: true,
      look: () => "words prose",
      value: ({ error }) => error || "",
      show: ({ error }) => h("span", ...visible(shorten(error || "no reason given", 300))),
    },
  ];
  const some = DATA.counts.failed > rows.length ? ` The first ${rows.length} are listed.` : "";
  const { failed, different, why } = DATA.counts;
  const page = [
    h("h1", "Failed runs"),
    h("p", `${failed} of ${different} runs failed. They are left out of every mean.${some}`),
    why.length > 1 ? listed(why.map(([reason, n]) => [`${form(n, "count")}: `, ...visible(shorten(reason, 200))])) : "",
  ];
  return rows.length ? [...page, table("Failed runs", columns, rows)] : page;
}

const ORACLE = "it reads the final layer to decide, so it saves nothing at run time";

const HOW = {
  "Means and intervals": {
    Mean: "Over prompts; several seeds of a prompt are averaged first, so that a prompt counts once. Where tokens are greedy and exits are not random, all seeds have the same run: it is shown once, as that of every seed, and counts once. Failed runs are left out of every mean and counted. n is the number of prompts that a mean is over.",
    Interval:
      "Written in brackets, and drawn as error bars or bands: over prompts, never tokens. Shares have the interval of Clopper and Pearson (Korn and Graubard's where prompts count in part), differences of paired shares that of Bonett and Price, and all else Student's. With too few prompts there is none.",
  },
  "Depth and savings": {
    "Layers skipped": "1 − mean depth: the layers after the exits, as a share of all, which is not what was saved.",
    "Where tokens exit, layer mix":
      "The share of a run's decided tokens that exit at each layer, averaged over prompts. Decided tokens are those whose exit was drawn: all except the first one of a run, which is always read from the final layer.",
    "Depth by token position":
      "(exit layer + 1) / number of layers, averaged over the tokens of a run in a bin of positions, then over seeds, then over the prompts whose text reaches the bin.",
    "Saving, theoretical":
      "1 − Σ macs_required / Σ macs_full over runs: the multiply-adds that the exits as taken need, if deciding were free and layers could be deferred without bound, beside those of full depth for the same tokens.",
    "Saving, run":
      "1 − Σ macs_executed / Σ macs_full over runs: the multiply-adds of what is run for each sequence as if decoded alone, with the head's reads for deciding and the keys and values of skipped layers. An oracle has none, since it runs every layer to decide.",
    "Saving, realised":
      "1 − seconds / seconds of full depth in the same round of eexit timings, for the same prompts and number of tokens; the interval is over its calls. What it lacks of run is the run saving of the timed tokens minus the realised one, in points. Generate is that of transformers, at full depth.",
    "Allowed by T(sequences, layers)":
      "What tokens that exit as often at each layer would save of the time if deciding were free, nothing were deferred and all sequences of a batch exited at the same steps: no exits save more, since a step goes as deep as its deepest sequence. From the time of steps at which all sequences exit at one layer, as eexit timings --steps measures it.",
    Oracle:
      "A rule that reads the final layer to decide where to exit. It needs the full-depth pass, so it saves nothing at run time: it bounds what rules without the final layer can reach.",
    Control:
      "A configuration whose exits follow the same histogram of layers as those of the configuration it is compared with, but are drawn at random: it has the same depth without the rule's choice of tokens. In the trade-off charts, a dotted line joins a configuration to its control; the control has a row of its own in tables.",
  },
  Texts: {
    Perplexity:
      "exp of the mean negative log-probability of the generated tokens under the full-depth model given the same text. A low value means that the text is fluent to that model, which is no proof of quality: a text that repeats itself in a loop has a very low perplexity. The mean over prompts is the geometric mean.",
    Disagreement:
      "Share of decided tokens that are not the full-depth model's most likely token given the same text, which is the run's own text before that token. With sampling, a token can differ without an early exit, so that normal disagrees too. Even a small share can change a whole text. In the texts, such a token has a line over it.",
    "In one loop":
      "longest_loop / n_tokens: the share of a run's tokens in its longest stretch of one piece that repeats back to back. Disagreement and perplexity can't show a loop, since they compare each token with what full depth, given the same text, would predict next. Given a loop, full depth continues it, so that a text of nothing but one loop agrees with full depth and has a low perplexity. If more than half of a configuration's text is one loop, and normal's is not, it is not named as the one that saves most, is drawn hollow, and has a ↻ at its label.",
    "Same as normal until":
      "The number of tokens before the first one that differs from the normal run, or the length of the text if none differs. The axis is logarithmic if the values span more than a factor of ten.",
    "Differs from here, bold":
      "The first place at which a text differs from the one it is compared with. After it, what the other text doesn't have is bold: all outside a longest common subsequence of the rests of both texts, of their tokens or, in a table, of their words.",
    "Early exits contradicted":
      "Of the tokens that were read before the final layer while the text was still that of normal, up to the first that differs: the share of which the likeliest token at the exit is not the final layer's. It is a ratio of sums over prompts. If most are contradicted, the rule's condition holds where the final layer predicts another token. Later tokens are left out: a text that has become one loop agrees with full depth.",
    "Sure and wrong":
      "Tokens of rules that could be deployed, read before the final layer and not full depth's prediction, given the same text. Sure here: the token's probability where it was read. Under full depth: the probability that full depth gives it. Those where the first exceeds the second most are held, eight of each setting.",
  },
  Comparisons: {
    "Side by side":
      "The value of a run minus that of the base's run of the same prompt and seed, averaged over seeds and then over prompts. For perplexity it is the ratio instead, with a geometric mean. An average over several pairs is taken prompt by prompt first. Certainly: the whole interval is on one side of no difference.",
    "At equal cost, at equal right answers":
      "A setting beside the best mix of two settings of another rule, full depth included, that costs as much, or that is right as often: for each prompt one of the two would be drawn with these shares. So a rule is compared with another one where no two of their settings meet. What is held equal can't be compared; all else can. The mix is found from the same prompts, which favours it a little.",
  },
  "What each layer predicts": {
    KL: "The Kullback–Leibler divergence, in nats, of the full-depth distribution from the one read after a layer, both from the full-depth pass over the same text.",
    "Exit probability":
      "The distribution over exit layers that a token's exit was drawn from, as the sweep stored it. At each exitable layer in turn, the rule gives the probability to exit there if no earlier layer did; the rest is the final layer's. It is 100% on the final layer for normal and for tokens whose exit wasn't drawn.",
    "Exit score":
      "The exit score at each exitable layer that the rule read. Online rules read the early-exit pass, and no layer beyond the exit; oracles read the full-depth pass's final layer. It is not shown for rules that read nothing, and for those whose score is the KL beside it.",
    "Top tokens":
      "The most likely tokens, with their probabilities, if the full-depth pass is read after that layer. The early-exit pass generates the tokens. Where earlier exits changed the keys and values that it attends to, its distribution at the exit layer differs from full depth's, and has a row of its own.",
    "Layers × positions":
      "The most likely token at every layer and position of a text (the logit lens). A cell is coloured if its token is that of the final layer, or by its KL.",
  },
  "This file": {
    "Rounding in this file":
      "KL, log-probability and entropy of single tokens to 4.5%; exit probabilities to 1 point, so that they sum to 100%; exit scores to three digits; probabilities of likely tokens to 0.2 points. The sweep's Parquet files have the exact values.",
    "CSV, JSON":
      "Files saved from a chart or a table have its rows, files of runs all runs in this report, and files of tokens all records of a run's tokens, rounded as described above. JSON also records their number, their source and the choices. In CSV, text that a spreadsheet would take for a formula is prefixed with an apostrophe.",
  },
};

// Returns explanations of this report's numbers, in groups: title → {term: words}.
const explanations = () => ({
  ...HOW,
  Quality: {
    ...QUALITY_HOW,
    ...Object.fromEntries(
      DATA.metrics.filter(({ definition }) => definition).map(({ label, definition }) => [label, definition]),
    ),
  },
  ...(DATA.drafts ? { Drafts: DRAFTS_HOW } : {}),
  ...(DATA.reasoning ? { Reasoning: REASONING_HOW } : {}),
  ...(DATA.learned ? { "Learned exits": LEARNED_HOW } : {}),
});

// Returns the definitions of this report's terms, as [name, words].
function definitions() {
  const recorded = (key) =>
    DATA.methods["A run"].find(([name]) => name === key)?.[2] ?? "Taken from the file as it is.";
  const shown = DATA.metrics.map(({ key, label }) => [label, recorded(key)]);
  const how = Object.assign({}, ...Object.values(explanations()));
  return [...Object.entries(how), ...shown.filter(([label]) => !(label in how))];
}

function ruleWords({ definition, parameter, unit, oracle }) {
  const has = parameter ? ` Its parameter: ${parameter}${unit && unit !== parameter ? `, ${unit}` : ""}.` : "";
  return `${definition}.${has}${oracle ? ` An oracle: ${ORACLE}.` : ""}`;
}

// Returns the sections of the methods page as [title, terms with their words]. A column of runs and tokens is explained once,
// for runs.
function methodsSections() {
  const run = DATA.methods["A run"],
    ofRun = new Set(run.map(([name]) => name)),
    above = { mode: "one of the modes above", rule: "one of the rules above" };
  const recorded = (rows) =>
    rows.map(([name, unit, definition]) => {
      const label = DATA.metrics.find(({ key }) => key === name)?.label;
      return [[name, h("span.soft", ` ${unit}${label ? `; shown as “${label}”` : ""}`)], above[name] ?? definition];
    });
  return [
    ["Modes: the KV cache of skipped layers", Object.entries(DATA.modes).map(([mode, does]) => [mode, `${does}.`])],
    ["Rules: where tokens exit", Object.entries(DATA.rules).map(([name, rule]) => [name, ruleWords(rule)])],
    ...Object.entries(explanations()).map(([title, terms]) => [title, Object.entries(terms)]),
    ["A run, as recorded", recorded(run)],
    [
      "A token, as recorded",
      recorded(DATA.methods["A token"].filter(([name]) => !ofRun.has(name) || name === "run_id")),
    ],
  ].filter(([, terms]) => terms.length);
}

function methodsPage() {
  const { level, least } = DATA.intervals,
    idOf = (title) =>
      title
        .toLowerCase()
        .split(/[^a-z ]/)[0]
        .replaceAll(" ", "-"),
    sections = methodsSections();
  return [
    h(
      "div.overview",
      contents(sections.map(([title]) => [`#/methods/${idOf(title)}`, title.split(":")[0]])),
      h(
        "div",
        h("h1", "Methods"),
        h(
          "p",
          `Intervals are at the level of ${100 * level}%, over prompts; with fewer than ${least} prompts there are none.`,
        ),
        ...DATA.facts.filter(([label]) => label === "Model").map(([, model]) => h("p", `Model: ${model}.`)),
        DATA.prompts.length < DATA.counts.prompts ? h("p", held()) : null,
        ...sections.flatMap(([title, terms]) => [
          h("h2", { id: idOf(title), tabindex: -1 }, title),
          h("dl.definitions", ...defined(terms)),
        ]),
      ),
    ),
  ];
}

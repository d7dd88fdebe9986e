// The overview's sections that only some sweeps have: drafts, learned exits, and chains of thought.

// Returns charts, and a table under its caption if there is one. Only unfolded sections have a heading.
const studied = (label, { about, artefacts = [], charts, table }, caption = null, isFolded = true) => [
  h(
    "section.studied",
    { "aria-label": label },
    isFolded ? null : h("h2", { id: label.toLowerCase(), tabindex: -1 }, label),
    h("p.soft", about),
    ...artefacts.map(({ summary, facts }) => provenance(summary, facts)),
  ),
  ...charts.map((chart) => figure({ ...chart, heading: isFolded ? "h4" : "h3" })),
  table && twin(caption, table),
];

const draftsSection = () =>
  studied(
    "Drafts",
    DATA.drafts,
    "Drafts beside plain decoding; in brackets: intervals over prompts, of what was measured over rounds",
    Boolean(DATA.trade),
  );

const reasoningSection = () =>
  studied("Reasoning", DATA.reasoning, "Chains of thought of every configuration; in brackets: intervals over prompts");

// Definitions for the methods page.
const DRAFTS_HOW = {
  "Drafts, acceptance":
    "The share of all drafted tokens that full depth agreed with, those after the first wrong one counted as drafted: a ratio of sums over runs. Acceptance per token leaves those out, and is a mean over prompts.",
  "Drafts, time":
    "Measured: seconds over those of normal, which is full depth on the same path, in the same round; the median over rounds. Expected: the same if a call of a layer or of the head takes as long for several tokens as for one, attention apart. A draft beats plain decoding only if its time is below that of normal and of transformers' own generate, and certainly so if both intervals are below 1.",
};

// Definitions for the methods page.
const LEARNED_HOW = {
  "Learned exits":
    "A readout, a gate, a probe and KV maps are fitted to the texts of a sweep in closed form. Of 2,000 held-out tokens at most: agreement is the share for which a layer's likeliest token is full depth's. Exits kept are the rule's own exits that pass a gate with this threshold, or that rule predicted_kl makes by the same draw as rule kl. With KV maps, each token exits at the first layer that predicts full depth's token, so that only the mode can make tokens differ.",
};

// Definitions for the methods page.
const REASONING_HOW = {
  "Per right answer":
    "The cost of all runs of a configuration over its right answers, as a multiple of normal's on the same prompts: a ratio of ratios of sums over prompts, with Student's interval of its linearised logarithm.",
  Necessity:
    "Right answers to follow-up prompts with the whole chain of thought less those to follow-up prompts without it (or with as many tokens without meaning), paired over prompts. All end in the same closing words, even if a chain never closed. Of closed chains: of prompts whose chain closed by itself. Beside normal or control: less the same of full depth, or of the control, which exits as often at each layer, whatever the token. A prefiller is read at full depth.",
};

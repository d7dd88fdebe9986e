// The overview's sections of what only some sweeps have: drafts, learned exits, and chains of thought.

// With a heading of its own only where it isn't folded.
function draftsSection() {
  const { about, findings, charts, table } = DATA.drafts;
  return [
    h(
      "section.drafts",
      { "aria-label": "Drafts" },
      DATA.trade ? null : h("h2", { id: "drafts", tabindex: -1 }, "Drafts"),
      h("p.soft", about),
      listed(findings),
    ),
    ...charts.map((chart) => figure({ ...chart, heading: DATA.trade ? "h4" : "h3" })),
    h(
      "section.whole",
      { "aria-label": "Numbers of drafts" },
      twin(
        "Drafts beside plain decoding; in brackets: intervals over prompts, of what was measured over rounds",
        table,
      ),
    ),
  ];
}

// Definitions for the methods page.
const DRAFTS_HOW = {
  "Drafts, acceptance":
    "The share of all drafted tokens that full depth agreed with, those after the first wrong one counted as drafted: a ratio of sums over runs. Acceptance per token leaves those out, and is a mean over prompts.",
  "Drafts, speed-up":
    "Measured: seconds of normal, which is full depth on the same path, over seconds, in the same round; the median over rounds. Expected: the same if a call of a layer or of the head takes as long for several tokens as for one, attention apart. A draft beats plain decoding only if it is faster than normal and than transformers' own generate, and certainly so if both intervals are above 1.",
};

function learnedSection() {
  const { findings, artefacts, charts } = DATA.learned;
  return [
    h(
      "section.learned",
      { "aria-label": "Learned exits" },
      findings.length ? listed(findings) : null,
      h(
        "p.soft",
        "As the training measured them on prompts that it was not trained on; the charts above are of the sweep's own runs.",
      ),
      ...artefacts.map(({ summary, facts }) => provenance(summary, facts)),
    ),
    ...charts.map((chart) => figure({ ...chart, heading: "h4" })),
  ];
}

// Definitions for the methods page.
const LEARNED_HOW = {
  "Held-out agreement and KL":
    "Of prompts that the training did not see, all their tokens: the share for which a layer's likeliest token is the final layer's, and the median KL(final ‖ layer), each layer being read through the model's own norm and head (the lens), or through what was trained.",
  "Learned exits, trade-off":
    "Teacher-forced: the exits that a rule would take on held-out texts at full depth, without what they would change in later tokens. Expected over the draws: the probability of an exit at each layer times what is read there. The control exits as often at each layer, whatever the token.",
  "Probe, rank correlation and calibration":
    "Spearman's correlation of the KL that the probe predicts and the true one, over held-out tokens. Calibration compares the chance to stop, 2·sigmoid(−k·KL), of the predicted KL with that of the true one, in ten bins of equal width of the predicted chance.",
};

function reasoningSection() {
  const { about, findings, charts, table } = DATA.reasoning;
  return [
    h("section.reasoning", { "aria-label": "Reasoning" }, h("p.soft", about), listed(findings)),
    ...charts.map((chart) => figure({ ...chart, heading: "h4" })),
    h(
      "section.whole",
      { "aria-label": "Numbers of chains" },
      twin("Chains of thought of every configuration; in brackets: intervals over prompts", table),
    ),
  ];
}

// Definitions for the methods page.
const REASONING_HOW = {
  "Per right answer":
    "What all runs of a configuration took over its right answers, beside what normal takes for one on the same prompts: a ratio of ratios of sums over prompts, with Student's interval of its linearised logarithm.",
  Necessity:
    "Right answers with the chain of thought that was written, less those of follow-up prompts without it (or with as many tokens without meaning), paired over prompts. Beside control: less the same of the control, which exits as often at each layer, whatever the token. A prefiller is read at full depth.",
};

// The overview's section on learned exits, which only a sweep with trained artefacts has: what they are and what they change.

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

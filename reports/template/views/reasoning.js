// The overview's section on chains of thought, which only a sweep whose texts have them has.

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

// The overview's section on drafts, which only a sweep with configurations of mode draft has.

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

// The overview's section on quality, which a sweep with answers, judgements, replays, scores or choices has.

const qualityLink = () => sectionLink("quality", "Quality ↓");

function qualitySection() {
  const { findings, chart, table, harness } = DATA.quality;
  return [
    h(
      "section.quality",
      { "aria-labelledby": "quality" },
      h("h2", { id: "quality", tabindex: -1 }, "Quality"),
      h("ul", {}, ...findings.map((finding) => h("li", {}, finding))),
    ),
    chart ? qualityFigure(chart) : null,
    h(
      "section.whole",
      { "aria-label": "Quality of configurations" },
      twin(
        "Quality and cost of every configuration, a control beneath its configuration; in brackets: intervals",
        table ?? chart.table,
      ),
    ),
    harness
      ? h(
          "section.whole",
          { "aria-labelledby": "harness" },
          h("h3", { id: "harness" }, "Tasks of the lm-evaluation-harness"),
          twin("Scores as the lm-evaluation-harness computes them, standard errors over documents", harness),
        )
      : null,
  ].filter(Boolean);
}

// One chart of a measure against a cost, both of which the reader chooses.
function qualityFigure(chart) {
  const names = (axis) => [...new Set(chart.variants.map((variant) => variant[axis]))];
  const state = Object.fromEntries(
    ["y", "x"].map((axis) => {
      const last = choice(`quality ${axis}`);
      return [axis, names(axis).includes(last) ? last : names(axis)[0]];
    }),
  );
  const replayed = chart.replayed?.rows ?? [];
  const note = h("output.soft");
  const chosen = () =>
    chart.variants.find(({ y, x }) => y === state.y && x === state.x) ?? chart.variants.find(({ y }) => y === state.y);
  const select = (label, axis) =>
    names(axis).length < 2
      ? null
      : h(
          "label",
          {},
          `${label} `,
          h(
            "select",
            {
              onchange: (event) => {
                state[axis] = event.target.value;
                choose(`quality ${axis}`, state[axis]);
                show();
                shown.update();
              },
            },
            ...names(axis).map((name) => h("option", { value: name, selected: name === state[axis] }, name)),
          ),
        );
  const show = () => {
    shown.variants[0] = chosen();
    note.replaceChildren(shown.variants[0].note);
  };
  const shown = {
    ...chart,
    variants: [chosen()],
    controls: [select("Quality", "y"), select("Saved", "x"), note],
    rows: () => [...chart.table.rows, ...replayed],
    open: ({ configuration }) => {
      if (DATA.configurations.some(({ key }) => key === configuration)) openConfiguration({ configuration });
    },
    twin: () => {
      const { y, x, shown: keys } = chosen();
      const columns = chart.table.columns.filter(({ key }) => keys.includes(key));
      const tables = [twin(`${y} against ${x}`, { columns, rows: chart.table.rows })];
      if (replayed.length) tables.push(twin("Settings that were replayed", chart.replayed));
      return h("div", {}, ...tables);
    },
  };
  show();
  return figure(shown);
}

// What is known of a run's answer and of what judges say of its text: a list of paragraphs.
function verdicts(prompt, run) {
  const found = run.found === undefined ? [] : [answerOf(prompt, run)];
  return [...found, ...(run.judged ?? []).map(judgedBy)].map((nodes) => h("p", {}, ...nodes));
}

function answerOf(prompt, run) {
  const said = run.found === null ? ["none is found in the text"] : ["found: ", ...visible(run.found)];
  const wanted = prompt.answer === null ? [] : ["; expected: ", ...visible(prompt.answer)];
  const right = run.m[DATA.metrics.findIndex(({ key }) => key === "correct")];
  return [h("strong", {}, "Answer"), ": ", form(right, "right"), "; ", ...said, ...wanted, "."];
}

function judgedBy([judge, scores, preferred, error]) {
  const name = h("strong", {}, `Judge ${DATA.judges[judge]}`);
  if (error) return [name, " gave no usable answer: ", ...visible(error)];
  const known = scores.map((score, i) => (score === null ? null : `${ASPECTS[i]} ${score}`)).filter(Boolean);
  const words = known.length ? `: ${known.join(", ")} (1 to 5)` : "";
  return [name, `${words}${preferred === null ? "" : `; ${PREFERENCE[preferred]}`}.`];
}

const ASPECTS = ["coherence", "completeness", "clarity", "no repetition"];
const PREFERENCE = {
  this: "prefers this text to that of normal",
  normal: "prefers the text of normal",
  tie: "prefers neither this text nor that of normal",
};

// Definitions for the methods page.
const QUALITY_HOW = [
  [
    "Accuracy",
    "The share of runs whose answer is right, of those whose prompt says what is right: first over a prompt's seeds, then over prompts. A setting is certainly below normal if the whole interval of its difference, paired over prompts and seeds, is below 0. One that is not certainly below need not be as good: with few prompts, the interval is wide.",
  ],
  [
    "Judge's score, win rate",
    "Scores of a language model that judges texts without knowing which configuration wrote them, from 1 to 5, and their mean. The win rate is how often it prefers the text to that of normal; a tie is half a win. Runs for which it gave no usable answer are counted, and are in no mean.",
  ],
  [
    "Certified, chosen",
    "Learn-then-Test (Angelopoulos et al. 2021), as jobs/choose.py computes it on three in four prompts: the settings of each mode and rule are tested from the conservative end to the bold one, until one fails. With the given confidence, the risk of all certified ones is within the bound; the chosen one is the cheapest. Held out are the other prompts, which had no part in it. The naive choice looks at means alone, and has no guarantee.",
  ],
  [
    "Replayed",
    "Settings that were not run: jobs/replay.py computes where the tokens of recorded texts would exit, and what would be read there. The text is given, so that it leaves out what exits do to later tokens.",
  ],
  [
    "Scores of the harness",
    "Of the lm-evaluation-harness, with its standard errors over documents. Continuations are scored and texts generated under the configuration's rule and mode.",
  ],
];

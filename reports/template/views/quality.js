// A run's answer, and the judges' scores of its text.

// Returns paragraphs on a run's answer and on the judges' scores.
function verdicts(prompt, run) {
  const found = run.found === undefined ? [] : [answerOf(prompt, run)];
  return [...found, ...(run.judged ?? []).map(judgedBy)].map((nodes) => h("p", ...nodes));
}

function answerOf(prompt, run) {
  const said = run.found === null ? ["none is found in the text"] : ["found: ", ...visible(run.found)];
  const wanted = prompt.answer === null ? [] : ["; expected: ", ...visible(prompt.answer)];
  return ["Answer: ", formed(rightOf(run), "right"), "; ", ...said, ...wanted, "."];
}

function judgedBy([judge, scores, error]) {
  const name = `Judge ${DATA.judges[judge]}`;
  if (error) return [name, " gave no usable answer: ", ...visible(error)];
  return [name, `: ${scores.map((score, i) => `${ASPECTS[i]} ${score}`).join(", ")} (1 to 5).`];
}

const ASPECTS = ["coherence", "completeness", "clarity", "no repetition"];

// Definitions for the methods page.
const QUALITY_HOW = {
  Accuracy:
    "The share of runs whose answer is right, of prompts with an answer: first over a prompt's seeds, then over prompts. A setting is certainly below normal if the whole interval of its difference, paired over prompts and seeds, is below 0. One that is not certainly below need not be as good: with few prompts, the interval is wide.",
  "Judge's score":
    "Scores of a language model that judges texts without the configuration's name, from 1 to 5, and their mean. Runs for which it gave no usable answer are counted, and are in no mean.",
  "Certified, chosen":
    "Learn-then-Test (Angelopoulos et al. 2021), as eexit choose computes it on three in four prompts: the settings of each mode and rule are tested from the conservative end to the bold one, until one fails. With the given confidence, the risk of all certified ones is within the bound; the chosen one is the cheapest. Held out are the other prompts, which had no part in it. The naive choice uses means alone, and has no guarantee.",
  Replayed:
    "Settings that were not run: eexit replay computes where the tokens of recorded texts would exit, and what would be read there. The text is given, so that it leaves out what exits do to later tokens.",
};

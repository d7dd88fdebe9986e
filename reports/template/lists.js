// #/s/<words>, #/fail, #/methods.

const MOST_HITS = 200;

async function searchPage(query) {
  const words = query.toLowerCase(), hits = [];
  let found = 0, searched = 0;
  for (let number = 0; words && number < DATA.prompts.length; number++) {
    const prompt = DATA.prompts[number], cores = await coreOf(number);
    prompt.runs.forEach((run, i) => {
      const text = textOf(run, cores[i]);
      const at = text.toLowerCase().indexOf(words);
      searched++;
      if (at < 0) return;
      found++;
      if (hits.length < MOST_HITS) hits.push(hit(prompt, run, cores[i], text, at, words.length));
    });
  }
  const some = found > hits.length ? `, the first ${hits.length} shown` : "";
  return [
    h("h1", {}, `Runs with “${query}”`),
    h("p", {}, words ? `${found} of ${searched} runs${some}.` : "Nothing to look for."),
    ...(DATA.prompts.length < DATA.counts.prompts ? [h("p.soft", {}, held())] : []),
    h("ul.hits", {}, ...hits),
  ];
}

function hit(prompt, run, tokens, text, at, length) {
  let t = null;
  for (let end = 0, i = 0; tokens && t === null && i < tokens.n; i++) {
    end += pieceText(tokens.piece[i]).length;
    if (end > at) t = i;
  }
  const around = [text.slice(Math.max(0, at - 60), at), text.slice(at, at + length), text.slice(at + length, at + length + 60)];
  return h("li", {}, h("a", { href: address(prompt, run, { t }) }, `${runName(run)} on prompt ${prompt.id}`), ": ",
    ...visible(around[0]), h("strong", {}, ...visible(around[1])), ...visible(around[2]));
}

function failuresPage() {
  const rows = DATA.failures.map((failure) => {
    const prompt = DATA.prompts.find(({ id }) => id === failure.prompt);
    const run = prompt && prompt.runs.find((r) => r.c === failure.c && r.seed === failure.seed);
    return { ...failure, name: `${runName(failure)} on prompt ${failure.prompt}`, link: run && address(prompt, run) };
  });
  const columns = [
    { label: "Run", text: true, value: ({ name }) => name, show: ({ name, link }) => (link ? h("a", { href: link }, name) : name) },
    { label: "Error", text: true, look: () => "words prose", value: ({ error }) => error || "", show: ({ error }) => h("span", {}, ...visible(shorten(error || "no reason given", 300))) },
  ];
  const some = DATA.counts.failed > rows.length ? ` The first ${rows.length} are listed.` : "";
  const page = [h("h1", {}, "Failed runs"), h("p", {}, `${DATA.counts.failed} of ${DATA.counts.runs} runs failed. They are left out of every mean.${some}`)];
  return rows.length ? [...page, table("Failed runs", columns, rows)] : page;
}

const HOW = [
  ["Mean", "Over prompts; several seeds of a prompt are averaged first, so that a prompt counts once. Failed runs are left out of every mean and counted. n is the number of prompts behind a number."],
  ["Interval", "In brackets, as rules and as bands: percentile bootstrap over prompts, never over tokens. With fewer prompts there is none."],
  ["Perplexity", "exp of the mean negative log-probability of the generated tokens under the full-depth model given the same text. Low is fluent to that model and no proof of quality: a text that repeats itself in a loop is very fluent. Averaged geometrically: the mean of its logarithm over prompts, and back."],
  ["Layers skipped (theoretical)", "1 − mean depth: what the exits as taken would not have needed if deciding were free. The exit rule compares each layer with the final one, so it has run them all. Nothing here is measured time."],
  ["Disagreement", "Share of decided tokens that are not the likeliest of the full-depth model given the same text, the run's own up to there. With sampling a token can differ without an exit, so normal disagrees too. A small share can still change a whole text. In the texts, a line over a token marks it."],
  ["Where tokens exit, layer mix", "Each run's decided tokens as shares of its exit layers, then the mean. Decided tokens are those whose exit was drawn: all but a run's first, which the final layer gives."],
  ["Depth by token position", "(exit layer + 1) / layers, averaged within a run and bin, then over seeds, then over prompts whose text reaches the bin."],
  ["Paired differences", "A run minus the run of the same prompt and seed under the configuration it is compared with; for perplexity the ratio (the difference of logarithms, and back). Averaged over seeds, then prompts."],
  ["Same as normal until", "Tokens before the first that differs from the normal run; the whole length where none does, so it is capped at the text's length. Its axis is logarithmic where the values spread over more than a factor of ten."],
  ["Differs from here, bold", "The first token that isn't the one of the text it is compared with; bold after that are the tokens of a longest common subsequence of the two rests."],
  ["KL", "In nats, of the full-depth distribution from the one read after a layer, in the full-depth pass over the same text."],
  ["Exit probability", "s = 2 / (1 + exp(k·KL)) at each exitable layer in turn, of what the earlier layers left; the rest at the final layer. Worked out in this page from KL and the KL factor k. All on the final layer for normal and for tokens whose exit wasn't drawn."],
  ["Would have said", "The likeliest tokens of the full-depth pass (the teacher) read after that layer, with their probabilities. The student is the pass that the tokens come from: where earlier exits changed what it attends to, it says something else at the same layer, and has a row of its own at the exit."],
  ["Layers × positions", "The first of those tokens at every layer and position of a text (the logit lens). Coloured where it is the final layer's, or by KL."],
  ["Rounding in this file", "KL, log-probability and entropy of single tokens to 4.5%, so exit probabilities to 2 points; probabilities of likely tokens to 0.2 points. The sweep's Parquet files have them in full."],
  ["CSV", "Of a chart: the rows that it draws. Of runs: those that this file holds. Of a run's tokens: what this file knows of each, rounded as said above. Text that a spreadsheet would take for a formula has an apostrophe in front."],
];

function methodsPage() {
  const { level, resamples, least } = DATA.bootstrap;
  const list = (items) => h("dl.definitions", {}, ...items);
  const columns = Object.entries(DATA.methods).flatMap(([title, rows]) => [
    h("h2", {}, `${title}, as recorded`),
    list(rows.flatMap(([name, unit, definition]) => [h("dt", {}, name, h("span.soft", {}, ` ${unit}`)), h("dd", {}, definition)])),
  ]);
  const shown = DATA.metrics.map(({ key, label }) => [label, (DATA.methods["A run"].find(([name]) => name === key) || [null, null, "As the file gives it."])[2]]);
  return [
    h("h1", {}, "Methods"),
    h("p", {}, `Intervals hold ${100 * level}% of ${form(resamples, "count")} resamples of the prompts; there are none below ${least} prompts.`),
    DATA.prompts.length < DATA.counts.prompts ? h("p", {}, held()) : null,
    Object.keys(DATA.modes).length ? h("h2", {}, "What an early exit does") : null,
    list(Object.entries(DATA.modes).flatMap(([mode, does]) => [h("dt", {}, mode), h("dd", {}, `${does}.`)])),
    h("h2", {}, "Numbers of this report"),
    list([...HOW, ...shown.filter(([label]) => !HOW.some(([name]) => name === label))].flatMap(([name, definition]) => [h("dt", {}, name), h("dd", {}, definition)])),
    ...columns,
  ].filter(Boolean);
}

// #/s/<words>, #/fail, #/methods.

const MOST_HITS = 200;

async function searchPage(query) {
  const words = query.toLowerCase(), hits = [];
  let found = 0;
  for (let number = 0; number < DATA.prompts.length; number++) {
    const prompt = DATA.prompts[number], cores = await coreOf(number);
    prompt.runs.forEach((run, i) => {
      const text = textOf(run, cores[i]);
      const at = words ? text.toLowerCase().indexOf(words) : -1;
      if (at < 0) return;
      found++;
      if (hits.length < MOST_HITS) hits.push(hit(prompt, run, cores[i], text, at, words.length));
    });
  }
  const some = found > hits.length ? `, the first ${hits.length} shown` : "";
  return [h("h1", {}, `Runs with “${query}”`), h("p", {}, `${found} of ${DATA.counts.runs} runs${some}.`), h("ul.hits", {}, ...hits)];
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
  const failures = DATA.prompts.flatMap((prompt) => prompt.runs.filter((run) => run.status !== "ok").map((run) => ({ prompt, run })));
  const columns = [
    { label: "Run", text: true, value: ({ prompt }) => prompt.id, show: ({ prompt, run }) => h("a", { href: address(prompt, run) }, `${runName(run)} on prompt ${prompt.id}`) },
    { label: "Error", text: true, value: ({ run }) => run.error || "", show: ({ run }) => shorten(run.error || "no reason given", 300) },
  ];
  const page = [h("h1", {}, "Failed runs"), h("p", {}, `${failures.length} of ${DATA.counts.runs} runs failed. They are left out of every mean.`)];
  return failures.length ? [...page, table("Failed runs", columns, failures)] : page;
}

function methodsPage() {
  const definitions = Object.entries(DATA.methods).flatMap(([title, columns]) => [
    h("h2", {}, title),
    h("dl.definitions", {}, ...columns.flatMap(([name, unit, definition]) => [h("dt", {}, name, h("span.soft", {}, ` ${unit}`)), h("dd", {}, definition)])),
  ]);
  return [
    h("h1", {}, "Methods"),
    h("p", {}, "Means are over prompts; several seeds of a prompt are averaged first. Perplexity is averaged geometrically. " +
      "Failed runs are left out and counted. Intervals are 95 % percentile bootstraps over prompts, 2,000 resamples, never over tokens; below 5 prompts there is none. " +
      "Paired differences compare runs of the same prompt and seed."),
    h("p", {}, "Layers not needed are a theoretical saving: 1 − mean depth. The KL rule looks at the final layer, so it saves no time when it runs. " +
      "Numbers of single tokens are rounded in this file: KL, log-probability and entropy to about 2 %, probabilities to 0.2 points. The Parquet files have them in full."),
    ...definitions,
  ];
}

// #/ : what exiting early costs, over all prompts.

const HEAT_ROWS = 200; // prompts shown before "show all"

function overviewPage() {
  const { runs, failed, planned } = DATA.counts;
  const missing = planned && planned > runs ? ` of ${planned}` : "";
  const numbers = h("dl.totals", {},
    h("div", {}, h("dt", {}, "runs"), h("dd", {}, `${form(runs, "count")}${missing}`)),
    h("div", {}, h("dt", {}, failed ? h("a", { href: "#/fail" }, "failed") : "failed"), h(failed ? "dd.bad" : "dd", {}, form(failed, "count"))));
  const page = [
    h("h1", {}, "What exiting early costs"),
    h("p.soft", {}, DATA.facts.map(([label, value]) => `${label}: ${value}`).join(" · ")),
    numbers,
  ];
  if (missing) page.push(h("p", {}, `${planned - runs} runs haven't landed yet: this is a partial sweep.`));
  if (!runs) page.push(h("p", {}, "No run has landed yet."));
  else if (failed === runs) page.push(h("p", {}, "Every run failed: there is nothing to average."));
  if (DATA.findings.length) {
    page.push(h("h2", {}, "Findings"), h("ul", {}, ...DATA.findings.map((finding) => h("li", {}, finding))));
    page.push(h("p.soft", {}, "In brackets: 95 % bootstrap intervals over prompts, from 5 prompts on. Layers not needed are theoretical savings: " +
      "the exit rule itself looks at the final layer, so nothing here is wall-clock time."));
  }
  page.push(h("div.figures", {}, ...DATA.charts.map(figure)));
  if (DATA.paired.rows.length) {
    page.push(h("section", {}, h("h2", {}, "Paired differences against normal"), twin("Paired differences against normal, same prompt and seed", DATA.paired)));
  } else if (runs && !DATA.configurations.some((configuration) => configuration.mode === DATA.normal)) {
    page.push(h("p", {}, "This sweep has no normal runs, so there is nothing to compare with."));
  }
  if (DATA.prompts.length) page.push(heatmap());
  return page;
}

// Prompts × configurations, one metric at a time; also the list of prompts.
function heatmap() {
  const place = h("div");
  let metric = Math.max(0, DATA.metrics.findIndex((m) => m.key === "mean_depth"));
  let limit = HEAT_ROWS;
  const update = () => place.replaceChildren(heatTable(metric, limit), ...more());
  const more = () => (DATA.prompts.length <= limit ? [] : [h("button", { type: "button", onclick: () => { limit = Infinity; update(); } }, `Show all ${DATA.prompts.length} prompts`)]);
  const options = DATA.metrics.map((m, i) => h("option", { value: i, selected: i === metric }, m.label));
  const choice = h("label", {}, "Show ", h("select", { id: "heat-metric", onchange: (event) => { metric = +event.target.value; update(); } }, ...options));
  update();
  return h("section", {}, h("h2", {}, "Prompts"), DATA.metrics.length ? choice : null, place);
}

function heatTable(metric, limit) {
  const number = (run) => (run && run.status === "ok" && metric < DATA.metrics.length ? run.m[metric] : null);
  const values = DATA.prompts.flatMap((prompt) => prompt.runs.map(number)).filter((value) => value !== null).sort((a, b) => a - b);
  const first = (prompt, c) => prompt.runs.find((run) => run.c === c);
  const step = (value) => {
    const low = values[Math.floor(values.length * 0.02)], high = values[Math.ceil(values.length * 0.98) - 1];
    return high > low ? Math.round(8 * Math.min(1, Math.max(0, (value - low) / (high - low)))) : 0;
  };
  const how = metric < DATA.metrics.length ? DATA.metrics[metric].form : "text";
  const columns = [{
    label: "Prompt",
    text: true,
    value: (prompt) => prompt.id,
    show: (prompt) => h("a", { href: address(prompt) }, `${prompt.id} `, h("span.soft", {}, shorten(prompt.text, 60))),
  }, ...DATA.configurations.map((configuration, c) => ({
    label: configuration.label,
    value: (prompt) => number(first(prompt, c)),
    look: (prompt) => (number(first(prompt, c)) === null ? null : `heat h${step(number(first(prompt, c)))}`),
    show: (prompt) => {
      const run = first(prompt, c);
      if (!run) return "";
      const failed = run.status !== "ok";
      const label = `${configuration.label} on prompt ${prompt.id}`;
      return h(failed ? "a.bad" : "a", { href: address(prompt, run), title: label }, failed ? "✕" : form(number(run), how));
    },
  }))];
  return table("Prompts by configuration" + (DATA.seeds.length > 1 ? `, seed ${DATA.seeds[0]} where there are several` : ""), columns, DATA.prompts.slice(0, limit));
}

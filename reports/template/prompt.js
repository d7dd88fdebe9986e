// #/p/<id> : one prompt under every configuration.

async function promptPage(number) {
  const prompt = DATA.prompts[number];
  const cores = await coreOf(number);
  const neighbour = (other, label) => (other ? h("a", { href: address(other) }, label) : null);
  const page = [
    h("nav.trail", { "aria-label": "Where you are" }, h("a", { href: "#/" }, "Overview"), ` › Prompt ${prompt.id}`),
    h("h1", {}, `Prompt ${prompt.id}`),
    h("blockquote", {}, ...visible(prompt.text)),
    h("p.row", {}, neighbour(DATA.prompts[number - 1], "← previous prompt"), neighbour(DATA.prompts[number + 1], "next prompt →")),
  ];
  if (!prompt.runs.length) return [...page, h("p", {}, "No run of this prompt has landed yet.")];
  page.push(runsTable(`Configurations on prompt ${prompt.id}`, prompt, prompt.runs));
  const longest = Math.max(...cores.map((tokens) => (tokens ? tokens.n : 0)));
  if (longest) page.push(h("h2", {}, "Exit layer at every position"), legend(null), strip(prompt, cores, longest));
  return page;
}

function runsTable(caption, prompt, runs) {
  const columns = [
    { label: "Configuration", text: true, value: (run) => run.c, show: (run) => h("a", { href: address(prompt, run) }, runName(run)) },
    { label: "Ended", text: true, value: ending, show: (run) => ending(run), look: (run) => (run.status === "ok" ? null : "bad") },
    { label: "Exit layers", text: true, value: (run) => run.counts[DATA.final], show: mix },
    ...DATA.metrics.map((metric, i) => ({ label: metric.label, value: (run) => run.m[i], show: (run) => form(run.m[i], metric.form) })),
  ];
  return table(caption, columns, runs);
}

// A small stacked bar; its numbers are in the label.
function mix(run) {
  const total = run.counts.reduce((sum, count) => sum + count, 0);
  if (!total) return run.error ? h("span.bad", {}, shorten(run.error, 120)) : "–";
  const words = run.counts.map((count, rank) => `${DATA.layers[rank]}: ${count}`).join(", ");
  const bar = h("span.mix", { role: "img", "aria-label": words, title: words });
  run.counts.forEach((count, rank) => {
    const part = h(`span.c${rank}`);
    part.style.width = `${(100 * count) / total}%`;
    if (count) bar.append(part);
  });
  return bar;
}

// Position × configuration. Canvas: a thousand tokens a row; the table above has the same in numbers.
function strip(prompt, cores, longest) {
  const HEIGHT = 24, rows = prompt.runs.map((run, i) => ({ run, tokens: cores[i] })).filter(({ tokens }) => tokens);
  const canvas = h("canvas.strip", { role: "img", "aria-label": `Exit layer at every position, one row per configuration, ${longest} positions` });
  const labels = h("div.labels", {}, ...rows.map(({ run }) => h("a", { href: address(prompt, run) }, runName(run))));
  canvas.height = HEIGHT * rows.length;
  canvas.width = longest;
  canvas.style.height = `${canvas.height}px`;
  const pen = canvas.getContext("2d", { alpha: true });
  const colours = DATA.layers.map((_, rank) => colourOf(rank));
  rows.forEach(({ tokens }, y) => {
    for (let x = 0; x < tokens.n; x++) {
      pen.fillStyle = colours[tokens.rank[x]];
      pen.fillRect(x, y * HEIGHT, 1, HEIGHT - 2);
    }
  });
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = rows[Math.floor(((event.clientY - box.top) / box.height) * rows.length)];
    const t = Math.floor(((event.clientX - box.left) / box.width) * longest);
    if (row) location.hash = address(prompt, row.run, { t: Math.min(t, row.tokens.n - 1) });
  });
  return h("div", {}, h("div.strips", {}, labels, canvas), h("p.soft", {}, "Each row is one configuration, left to right its tokens; a click reads from there."));
}

function colourOf(rank) {
  const probe = h(`span.c${rank}`);
  document.body.append(probe);
  const colour = getComputedStyle(probe).backgroundColor;
  probe.remove();
  return colour;
}

// What can be taken out of the page: charts as images, runs as CSV, the page on paper.

function download(url, name) {
  h("a", { href: url, download: name }).click();
}

async function saveImage(entry, type) {
  download(await entry.view.toImageURL(type, 2), `${entry.chart.key}.${type}`);
}

// Every run that the page holds, with its text.
async function saveRuns() {
  const head = ["prompt_id", "prompt", "mode", "kl_factor", "seed", "status", "finish_reason", ...DATA.metrics.map((metric) => metric.key), "error", "text"];
  const lines = [head];
  for (const [number, prompt] of DATA.prompts.entries()) {
    const tokens = await coreOf(number);
    prompt.runs.forEach((run, i) => {
      const { mode, kl } = DATA.configurations[run.c];
      lines.push([prompt.id, prompt.text, mode, kl, run.seed, run.status, run.finish, ...run.m, run.error, textOf(run, tokens[i])]);
    });
  }
  const csv = lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
  download(URL.createObjectURL(new Blob([csv], { type: "text/csv" })), "runs.csv");
}

// Text that a spreadsheet would take for a formula gets an apostrophe in front.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const ACROSS = 680; // pixels of a portrait page, A4 or letter

// Paper is white and narrow: charts are drawn for it, then the screen has its own again.
function preparePrint() {
  const dark = isDark();
  paper = ACROSS;
  setTheme(false);
  redraw(true);
  addEventListener("afterprint", () => { paper = 0; setTheme(dark); redraw(true); }, { once: true });
}

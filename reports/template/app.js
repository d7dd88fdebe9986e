// Routes, header, theme.

const isDark = () => document.documentElement.dataset.theme === "dark";

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("dark").setAttribute("aria-pressed", String(dark));
}

// What an address asks for; null for one that leads nowhere.
function parse(hash) {
  const parts = hash.replace(/^#?\/?/, "").split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  if (parts[0] === "") return { page: "overview" };
  if (parts[0] === "s") return { page: "search", query: parts.slice(1).join("/") };
  if (parts[0] === "fail" || parts[0] === "methods") return { page: parts[0] };
  if (parts[0] !== "p") return null;
  const number = DATA.prompts.findIndex((prompt) => prompt.id === parts[1]);
  if (number < 0) return null;
  if (parts.length === 2) return { page: "prompt", number };
  const more = { s: null, vs: null, t: null };
  for (let i = 3; i < parts.length; i++) {
    const bare = parts[i] === "vs" && (i + 1 === parts.length || parts[i + 1] === "t");
    if (parts[i] in more) more[parts[i]] = bare ? DATA.normal : parts[++i];
  }
  const run = DATA.prompts[number].runs.find((r) => DATA.configurations[r.c].key === parts[2] && (more.s === null || String(r.seed) === more.s));
  return run ? { page: "configuration", number, run, vs: more.vs, t: /^\d+$/.test(more.t ?? "") ? +more.t : null } : null;
}

const PAGES = {
  overview: overviewPage,
  prompt: ({ number }) => promptPage(number),
  configuration: ({ number, run, vs, t }) => configurationPage(number, run, { vs, t }),
  search: ({ query }) => searchPage(query),
  fail: failuresPage,
  methods: methodsPage,
};

let turn = 0;

async function route(first = false) {
  const mine = ++turn;
  const asked = parse(location.hash);
  const page = asked ? await PAGES[asked.page](asked) : [h("h1", {}, "Not in this report"), h("p", {}, h("a", { href: "#/" }, "Overview"))];
  if (mine !== turn) return;
  document.body.className = document.body.className.replace(/ ?only\d+/, "");
  $("main").replaceChildren(...page);
  forgetCharts();
  header(asked || {});
  if (!first) { scrollTo(0, 0); $("main").focus({ preventScroll: true }); }
  document.title = [page.find((node) => node.tagName === "H1").textContent, DATA.title].join(" · ");
  const pinned = document.querySelector(".pinned");
  if (pinned) pinned.scrollIntoView({ block: "center" });
  redraw(false);
  document.body.dataset.ready = location.hash || "#/";
}

function header(asked) {
  const prompt = $("pick-prompt"), configuration = $("pick-configuration");
  prompt.value = asked.number === undefined ? "" : String(asked.number);
  const runs = asked.number === undefined ? [] : DATA.prompts[asked.number].runs;
  configuration.replaceChildren(h("option", { value: "" }, "all"), ...runs.map((run, i) => h("option", { value: i, selected: run === asked.run }, runName(run))));
  configuration.disabled = !runs.length;
  configuration.onchange = () => { location.hash = address(DATA.prompts[asked.number], runs[configuration.value]); };
  if (asked.page === "search") $("query").value = asked.query;
}

async function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  await load();
  $("pick-prompt").append(h("option", { value: "" }, "all"), ...DATA.prompts.map((prompt, i) => h("option", { value: i }, `${prompt.id} ${shorten(prompt.text, 60)}`)));
  $("pick-prompt").onchange = (event) => { location.hash = event.target.value ? address(DATA.prompts[event.target.value]) : "#/"; };
  $("search").onsubmit = (event) => { event.preventDefault(); location.hash = `#/s/${encodeURIComponent($("query").value)}`; };
  $("skip").onclick = (event) => { event.preventDefault(); $("main").focus(); };
  $("dark").onclick = () => { setTheme(!isDark()); redraw(true); };
  addEventListener("hashchange", () => route());
  addEventListener("beforeprint", () => redraw(true));
  watcher.observe($("main"));
  await route(true);
}

start();

// Routing by the address, the header, and the theme.

const isDark = () => document.documentElement.dataset.theme === "dark";

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("dark").setAttribute("aria-pressed", String(dark));
}

const whole = (text) => (/^\d+$/.test(text ?? "") ? +text : null);

const MARKS = ["s", "vs", "t", "o"]; // the words that separate the parts of a run's address

// Returns the end of the configuration's name that begins at part `at` of an address. Names contain slashes, and a seed
// may follow.
function nameEnd(parts, at) {
  const named = (name) => DATA.configurations.some(({ key }) => key === name || key === name.replace(/~-?\d+$/, ""));
  for (let end = parts.length; end > at; end--) if (named(parts.slice(at, end).join("/"))) return end;
  const mark = parts.findIndex((part, i) => i > at && MARKS.includes(part));
  return mark < 0 ? parts.length : mark;
}

// Returns the page at an address with its parameters; {page: "nowhere", why} if this file lacks it.
function parse(hash) {
  const parts = pathOf(hash)
    .replace(/^#?\/?/, "")
    .split("/")
    .map(decoded);
  const nowhere = (why) => ({ page: "nowhere", why });
  if (parts[0] === "") return { page: "overview" };
  if (parts[0] === "at") return { page: "overview", at: parts[1] };
  if (parts[0] === "s" || parts[0] === "w")
    return { page: "search", query: parts.slice(1).join("/"), whole: parts[0] === "w" };
  if (parts[0] === "fail") return { page: "fail" };
  if (parts[0] === "methods") return { page: "methods", at: parts[1] };
  if (parts[0] === "c") {
    const key = parts.slice(1).join("/");
    const known = DATA.configurations.some((configuration) => configuration.key === key);
    return known ? { page: "everywhere", key } : nowhere(`There is no configuration ${key}.`);
  }
  if (parts[0] !== "p") return nowhere("No page has this address.");
  const number = DATA.prompts.findIndex((prompt) => prompt.id === parts[1]);
  if (number < 0)
    return nowhere(`There is no prompt ${parts[1]}.${DATA.prompts.length < DATA.counts.prompts ? ` ${held()}` : ""}`);
  if (parts.length === 2) return { page: "prompt", number };
  const more = Object.fromEntries(MARKS.map((mark) => [mark, null])),
    end = nameEnd(parts, 2),
    key = parts.slice(2, end).join("/");
  for (let i = end; i < parts.length; ) {
    const mark = parts[i++];
    if (mark === "vs") {
      const bare = i === parts.length || parts[i] === "t" || parts[i] === "o",
        from = i;
      if (!bare) i = nameEnd(parts, from);
      more.vs = bare ? DATA.normal : parts.slice(from, i).join("/");
    } else if (MARKS.includes(mark)) more[mark] = parts[i++];
  }
  const run = runsOf(DATA.prompts[number], key).find((r) => more.s === null || hasSeed(r, +more.s));
  if (!run)
    return nowhere(`There is no run ${key}${more.s === null ? "" : `, seed ${more.s},`} on prompt ${parts[1]}.`);
  return { page: "configuration", number, run, vs: more.vs, t: whole(more.t), o: whole(more.o) };
}

const PAGES = {
  overview: () => (DATA.comparison ? comparisonPage(DATA.comparison) : overviewPage()),
  prompt: ({ number }) => promptPage(number),
  configuration: ({ number, run, vs, t, o }) => configurationPage(number, run, { vs, t, o }),
  everywhere: ({ key }) => configurationsPage(key),
  search: ({ query, whole }) => searchPage(query, whole),
  fail: failuresPage,
  methods: methodsPage,
  nowhere: ({ why }) => [h("h1", "Not in this report"), h("p", why), h("p", h("a", { href: "#/" }, "Overview"))],
};

let turn = 0,
  here = null; // the visible page

// Shows the page at the address. `why` is "opened" when the file is opened, "gone" when the reader follows a link, and
// "renewed" when the data are new.
async function route(why) {
  const mine = ++turn,
    y = why === "renewed" ? scrollY : arrive();
  const hash = location.hash || "#/",
    asked = parse(hash);
  takeChoices(hash);
  if (why === "gone" && asked.at && here === asked.page && !hash.includes("?")) {
    readdress(pathOf(hash));
    goTo(asked.at);
    return;
  }
  offered.clear();
  unpin = null;
  const page = await PAGES[asked.page](asked);
  if (mine !== turn) return;
  hideTip();
  document.body.className = document.body.className.replace(/ ?only\d+/, "");
  $("main").replaceChildren(...page);
  forgetCharts();
  header(asked);
  if (why === "gone") $("main").focus({ preventScroll: true });
  here = asked.page;
  readdress(pathOf(hash));
  document.title = [$("main").querySelector("h1").textContent, DATA.title].join(" · ");
  const pinned = document.querySelector(".pinned");
  scrollTo(0, y ?? 0);
  if (y === null && pinned) reveal(pinned, isNumber(asked.t ?? asked.o) ? "center" : "nearest");
  else if (y === null && asked.at) goTo(asked.at);
  redraw(false);
  document.body.dataset.ready = hash;
}

function header(asked) {
  const prompt = $("pick-prompt"),
    configuration = $("pick-configuration");
  prompt.value = asked.number === undefined ? "" : String(asked.number);
  const runs = asked.number === undefined ? null : DATA.prompts[asked.number].runs;
  const entries = runs
    ? runs.map((run) => [address(DATA.prompts[asked.number], run), runShown(run), runName(run)])
    : DATA.configurations.map(({ key }) => [everywhere(key), shortOf(key), key]);
  const now = asked.run ? address(DATA.prompts[asked.number], asked.run) : asked.key && everywhere(asked.key);
  const all = [runs ? address(DATA.prompts[asked.number]) : "#/", "all"];
  configuration.replaceChildren(...optionsOf([all, ...entries], now));
  configuration.title = configuration.selectedOptions[0].title;
  configuration.onchange = () => {
    location.hash = configuration.value;
  };
  $("query").value = asked.query ?? $("query").value;
}

function listPrompts() {
  $("pick-prompt").replaceChildren(
    h("option", { value: "" }, "all"),
    ...DATA.prompts.map((prompt, i) => h("option", { value: i }, promptName(prompt, 60))),
  );
}

async function start() {
  setTheme(stored("localStorage", "dark") ?? matchMedia("(prefers-color-scheme: dark)").matches);
  await load();
  listPrompts();
  $("pick-prompt").onchange = (event) => {
    location.hash = event.target.value ? address(DATA.prompts[event.target.value]) : "#/";
  };
  $("search").onsubmit = (event) => {
    event.preventDefault();
    location.hash = searchAddress($("query").value, parse(location.hash).whole);
  };
  $("skip").onclick = (event) => {
    event.preventDefault();
    $("main").focus();
  };
  $("dark").onclick = () => {
    setTheme(!isDark());
    stored("localStorage", "dark", isDark());
    redraw(true);
  };
  addEventListener("hashchange", () => route("gone"));
  for (const type of ["csv", "json"]) {
    $(type).onclick = () => saveRuns(type);
    $(type).title = runsWords();
  }
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip() || unpin?.();
    turnByKey(event);
  });
  document.addEventListener("click", closePaneBeside);
  explainTerms();
  $("print").onclick = printPage;
  addEventListener("keydown", printByKey);
  addEventListener("beforeprint", preparePrint);
  new ResizeObserver(() => redraw(false)).observe($("main"));
  keepPlaces();
  await route("opened");
  if (FOLLOW) follow();
}

start();

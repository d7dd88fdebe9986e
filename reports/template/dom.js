// Making elements and formatting values. Text always becomes a text node, and never HTML, so that generated text can't
// inject markup.

const $ = (id) => document.getElementById(id);

// h("a.class", {href: "#/"}, "text", node, …), with or without attributes: strings become text nodes; null, undefined and
// false become nothing.
function h(tag, ...parts) {
  const attributes = parts[0]?.constructor === Object ? parts.shift() : {},
    [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...parts.filter((part) => part !== null && part !== undefined && part !== false));
  return element;
}

// Line ends, control characters and characters that change the writing direction are made visible as marks.
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to find.
const UNSEEN = /([\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff])/;

// Every second part is a separator.
function visible(text) {
  const marked = (letter) => [h("span.mark", mark(letter)), letter === "\n" ? letter : ""];
  const nodes = text.split(UNSEEN).flatMap((part, i) => (i % 2 ? marked(part) : part));
  return nodes.filter((node) => node !== "");
}

// Returns a part of a text with invisible blanks marked too: at either end of a line, and several in a row. The mark is drawn
// over the blank, so that copied text is correct.
function spaced(text, from = 0, to = text.length) {
  const nodes = [];
  let at = from;
  for (const { 0: found, index } of text.matchAll(/^ +| +$| {2,}/gm)) {
    const [start, end] = [Math.max(from, index), Math.min(to, index + found.length)];
    if (start >= end) continue;
    nodes.push(...visible(text.slice(at, start)));
    for (let i = start; i < end; i++) nodes.push(h("span.blank", " "));
    at = end;
  }
  return [...nodes, ...visible(text.slice(at, to))];
}

function mark(letter) {
  if (letter === "\n") return "↵";
  if (letter === "\t") return "⇥";
  return `⟨${letter.codePointAt(0).toString(16).toUpperCase().padStart(2, "0")}⟩`;
}

const FORMS = {
  text: (value) => value,
  count: (value) => value.toLocaleString("en", { maximumFractionDigits: 1 }),
  share: (value) => `${rounded(100 * value, 1)}%`,
  real: (value) =>
    value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)
      ? value.toExponential(2)
      : String(+value.toPrecision(4)),
  times: (value) => rounded(value, 2),
  points: (value) => `${signed(100 * value, 1)} pp`,
  change: (value) => signed(value, 1),
  fine: (value) => signed(value, 2),
  right: (value) => ({ 0: "✗ wrong", 1: "✓ right" })[value] ?? FORMS.share(value),
};

// What rounds to zero has no sign.
const rounded = (value, digits) =>
  value
    .toFixed(digits)
    .replace(/^-(?=[0.]+$)/, "")
    .replace("-", "−");

const signed = (value, digits) => (value > 0 ? "+" : "") + rounded(value, digits);

const form = (value, how) => (value === null || value === undefined ? "–" : FORMS[how](value));

// Returns the same as a node, with a colour for right and wrong.
function formed(value, how) {
  const look = how === "right" && { 0: "wrong", 1: "right" }[value];
  return h(look ? `span.${look}` : "span", form(value, how));
}

const shorten = (text, length) => (text.length > length ? `${Array.from(text).slice(0, length).join("")}…` : text);

// Scrolls the page, and scrollable parts of it, until an element is in view. After `scrollIntoView`, the Tab key of some
// browsers would continue from that element, even if nothing has the focus.
function reveal(element, block = "nearest") {
  const { scrollMarginTop, scrollMarginBottom } = getComputedStyle(element);
  for (let box = element.parentElement; box; box = box.parentElement) {
    const isPage = box === document.documentElement;
    if (!isPage && !/auto|scroll/.test(getComputedStyle(box).overflowY)) continue;
    const place = element.getBoundingClientRect(),
      frame = isPage ? { top: 0, bottom: innerHeight } : box.getBoundingClientRect(),
      above = place.top - parseFloat(scrollMarginTop) - frame.top,
      below = place.bottom + parseFloat(scrollMarginBottom) - frame.bottom;
    if (block === "center") box.scrollTop += (above + below) / 2;
    else box.scrollTop += above < 0 ? above : Math.min(above, Math.max(0, below));
  }
}

// Returns a button that turns something on and off.
function toggle(label, isOn, flip) {
  const onclick = () => {
    flip();
    control.setAttribute("aria-pressed", String(isOn()));
  };
  const control = h("button", { type: "button", "aria-pressed": String(isOn()), onclick }, label);
  return control;
}

const isNumber = (value) => typeof value === "number";

// Returns a labelled choice between names, each a text or [value, text, title].
function chooser(label, names, now, onchange, id = null) {
  const change = () => {
    onchange(select.value);
    select.title = select.selectedOptions[0]?.title ?? "";
  };
  const select = h("select", { id, onchange: change }, ...optionsOf(names, now));
  select.title = select.selectedOptions[0]?.title ?? "";
  return h("label", `${label} `, select);
}

const optionsOf = (names, now) =>
  names
    .map((name) => [name].flat())
    .map(([value, text = value, title = null]) => h("option", { value, title, selected: value === now }, text));

// Returns [chooser, box]: a choice under `key` of the address, and `make` of the chosen name. `usual` is the first choice if
// that isn't the first name. With a single name, there is no chooser.
function chosenBox(label, key, names, make, usual) {
  const box = h("div"),
    values = names.map((name) => [name].flat()[0]),
    first = choiceOf(key, values, usual);
  const show = (name) => box.replaceChildren(...[make(name)].flat());
  const change = (name) => {
    choose(key, name);
    show(name);
  };
  show(first);
  return [names.length > 1 && h("div.row", chooser(label, names, first, change)), box];
}

// Returns a list of items, each a node or several.
const listed = (items) => h("ul", ...items.map((item) => h("li", ...[item].flat())));

// Returns the content of a dl: pairs of a name, as a text or nodes, and its value.
const defined = (pairs) => pairs.flatMap(([name, words]) => [h("dt", ...[name].flat()), h("dd", words)]);

// Returns the path from the overview to a page.
const trail = (...steps) =>
  h(
    "nav.trail",
    { "aria-label": "Where you are" },
    h("a", { href: "#/" }, "Overview"),
    ...steps.flatMap((step) => [" › ", step]),
  );

// Returns a line that opens to labels and texts.
const provenance = (line, facts, more = null) =>
  h("details.provenance", h("summary", line), h("dl", ...defined(facts)), more);

// Fills details with the nodes of `make` when they are first opened, and draws the charts among them.
function unfold(details, make) {
  const fill = () => {
    if (!details.open || details.children.length > 1) return;
    details.append(...make().filter(Boolean));
    redraw(false);
  };
  details.addEventListener("toggle", fill);
  fill();
  return details;
}

// Returns a row of labelled numbers. `items` are pairs of [label, value].
function numbers(items) {
  return h("dl.named", ...items.map(([label, value]) => h("div", h("dt", termed(label)), h("dd", value))));
}

const escaped = (parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

// Returns the address of one configuration on every prompt, with the slashes of the name unescaped.
const everywhere = (key) => escaped(["c", ...key.split("/")]);

// Returns the address of a run, of the run compared with it, and of a token of the run's text (t) or the other text (o):
// #/p/<prompt>/<configuration>/s/<seed>/vs/<configuration>/t/<token>.
function address(prompt, run, { vs, t, o } = {}) {
  const parts = ["p", prompt.id];
  if (run) {
    parts.push(...DATA.configurations[run.c].key.split("/"));
    if (DATA.seeds.length > 1 && !run.every) parts.push("s", run.seed);
    if (vs) parts.push("vs", ...vs.split("/"));
    for (const [side, i] of Object.entries({ t, o })) if (i !== null && i !== undefined) parts.push(side, i);
  }
  return escaped(parts);
}

// Returns a run's seed as a suffix of a name; some runs are the same for every seed.
const ofSeed = (run) => (DATA.seeds.length < 2 ? "" : run.every ? ", every seed" : `, seed ${run.seed}`);

const runName = (run) => DATA.configurations[run.c].key + ofSeed(run);

// Returns the short name of a configuration, or of a part of a key.
const shortOf = (name) => DATA.short[name] ?? name;

// Returns a key's menu entry: the short name, and the key on hover.
const inMenu = (key) => (shortOf(key) === key ? key : [key, shortOf(key), key]);

// Returns a run's short name, with a mark if the rule is an oracle and others are not.
const runShown = (run) => shortOf(DATA.configurations[run.c].key) + ofSeed(run) + DATA.configurations[run.c].mark;

const promptName = (prompt, length) => `${prompt.id} ${shorten(prompt.text.replace(/\s+/g, " "), length)}`;

const hasSeed = (run, seed) => run.every || run.seed === seed;

// Returns the part of an address for the other run of a comparison: configuration, and seed if that differs.
const versus = (run, other) => DATA.configurations[other.c].key + (hasSeed(other, run.seed) ? "" : `~${other.seed}`);

const ENDINGS = { eos: "end of text", length: "length cap" };
const ending = (run) => (run.status !== "ok" ? "error" : ENDINGS[run.finish] || run.finish || "–");

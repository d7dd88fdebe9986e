// Explanations of terms in place: a term shows its definition from the methods page on hover, on focus and on tap.

// Labels → the term that defines them.
const SAME_TERM = {
  "right answers": "accuracy",
  "right answers, beside full depth": "accuracy",
  "accuracy, beside normal": "accuracy",
  "multiply-adds saved, run": "saving, run",
  "saved: multiply-adds, run": "saving, run",
  "added by deciding": "saving, run",
  "saved if deciding were free": "saving, theoretical",
  "time saved, realised": "saving, realised",
  "certified, cheapest": "certified, chosen",
  "chosen for": "certified, chosen",
  "certified for": "certified, chosen",
  "at most": "certified, chosen",
  "held out": "certified, chosen",
  loss: "certified, chosen",
  "its control": "control",
  "mean depth": "layers skipped",
};

// Name in lower case → definition.
function terms() {
  const rules = Object.entries(DATA.rules).map(([name, rule]) => [name, ruleWords(rule)]);
  return new Map(
    [...Object.entries(DATA.modes), ...rules, ...definitions()].map(([name, words]) => [name.toLowerCase(), words]),
  );
}

function definitionOf(label) {
  const name = label.toLowerCase();
  DATA.terms ??= terms();
  const known = DATA.terms;
  return known.get(SAME_TERM[name] ?? name) ?? known.get(name.split(/, | \(/)[0]) ?? null;
}

// Returns a term as a button that explains it, or the plain label if there is no definition.
const termed = (label) =>
  definitionOf(label) ? h("button.term", { type: "button", "data-term": label }, label) : label;

let tip = null; // {box, target, by}; `by` is the kind of event that opened it

function showTip(target, by) {
  const words = definitionOf(target.dataset.term);
  if (!words || tip?.target === target) return;
  hideTip();
  const box = h("div.tip", { id: "tip", role: "tooltip" }, h("strong", target.dataset.term), ` ${words}`);
  $("main").append(box);
  target.setAttribute("aria-describedby", "tip");
  tip = { box, target, by };
  placeTip();
}

// Places the tip next to its term, also on a scrolled page.
function placeTip() {
  if (!tip) return;
  const { box, target } = tip,
    at = target.getBoundingClientRect(),
    wide = box.offsetWidth,
    left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - wide - 8)),
    below = at.bottom + 6 + box.offsetHeight < innerHeight;
  box.style.left = `${left}px`;
  box.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - 6 - box.offsetHeight)}px`;
}

// Closes the tip. Returns true if there was one.
function hideTip() {
  if (!tip) return false;
  tip.box.remove();
  tip.target.removeAttribute("aria-describedby");
  tip = null;
  return true;
}

function explainTerms() {
  const at = (event) => event.target.closest?.("[data-term]");
  for (const kind of ["pointerover", "focusin", "click"])
    document.addEventListener(kind, (event) => {
      const target = at(event);
      if (target) showTip(target, kind);
      else if ((kind === "click" || tip?.by === kind) && !event.target.closest?.(".tip")) hideTip();
    });
  document.addEventListener("focusout", hideTip);
  addEventListener("scroll", placeTip, { passive: true, capture: true });
}

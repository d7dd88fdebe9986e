// The pages of one prompt under every configuration (#/p/<id>), and of one configuration on every prompt
// (#/c/<configuration>).

async function promptPage(number) {
  const prompt = DATA.prompts[number];
  const cores = await coreOf(number);
  const page = [
    trail(`Prompt ${prompt.id}`),
    h("h1", `Prompt ${prompt.id}`),
    h(
      "p.row",
      ...neighbours(number, (at) => address(at)),
      prompt.why ? h("span.soft", `Held because: ${prompt.why}.`) : null,
    ),
    h("blockquote", { tabindex: 0, role: "group", "aria-label": "Prompt" }, ...visible(prompt.text)),
    h(
      "p",
      prompt.kind ? `Kind: ${prompt.kind}. ` : "",
      ...(prompt.answer === null ? [] : ["Expected answer: ", ...visible(prompt.answer), ". "]),
      rightWords(prompt),
    ),
  ];
  if (!prompt.runs.length) return [...page, h("p", "No run of this prompt is committed yet.")];
  const rows = prompt.runs.map((run, i) => ({ run, tokens: cores[i] }));
  if (!rows.some(({ tokens }) => tokens) && prompt.runs.some((run) => run.n)) page.push(notThere(number));
  const failed = rows.filter(({ run }) => run.status !== "ok");
  if (failed.length)
    page.push(
      h(
        "p.bad",
        `${failed.length} of ${rows.length} runs failed: `,
        ...failed.flatMap(({ run }, i) => [i ? ", " : "", h("a", { href: address(prompt, run) }, runName(run))]),
      ),
    );
  return [...page, writtenTexts(prompt, rows), promptNumbers(prompt)];
}

// Returns links to the nearest prompts before and after this one for which `to` returns an address.
function neighbours(number, to) {
  const nearest = (step, at = number + step) => {
    const href = DATA.prompts[at] && to(DATA.prompts[at]);
    return href === null ? nearest(step, at + step) : href;
  };
  return [
    [-1, "← previous prompt"],
    [1, "next prompt →"],
  ].map(([step, label]) => nearest(step) && h("a", { href: nearest(step) }, label));
}

const MOST_NAMES = 3, // settings shown of those that wrote a text; the others are folded
  MOST_LETTERS = 700; // shown of a text after its first difference; the run's page has the rest

// Returns the settings' texts, equal ones once: full depth's first, then the others by similarity to it.
function writtenTexts(prompt, rows) {
  const groups = new Map();
  for (const { run, tokens } of rows) {
    if (run.status !== "ok") continue;
    const text = textOf(run, tokens);
    if (!groups.has(text)) groups.set(text, { text, members: [] });
    groups.get(text).members.push({ run, tokens });
  }
  const isNormal = ({ run }) => DATA.configurations[run.c].mode === DATA.normal;
  const base = [...groups.values()].find(({ members }) => members.some(isNormal));
  const made = [...groups.values()].map((group) => ({
    ...group,
    from: base && group !== base ? firstDifference(base.text, group.text) : null,
  }));
  const ordered = sorted(made, ({ text, from }) => (text === base?.text ? Infinity : (from ?? 0)), true);
  const right = metricAt("correct"),
    baseRight = base && right >= 0 ? base.members.find(isNormal).run.m[right] : null;
  const lost = ({ members }) => baseRight === 1 && members.some(({ run }) => run.m[right] === 0);
  const filters = ["all texts", "right at full depth, wrong here"];
  const make = (name) =>
    ordered
      .filter((group) => name === filters[0] || lost(group) || group.text === base?.text)
      .map((group) => saidBy(prompt, group, base?.members.find(isNormal).tokens));
  const [filter, box] = chosenBox("Show", "prompt.texts", ordered.some(lost) ? filters : filters.slice(0, 1), make);
  return h(
    "section",
    { "aria-labelledby": "written" },
    h(
      "h2",
      { id: "written" },
      `What was written: ${form(groups.size, "count")} different text${groups.size === 1 ? "" : "s"}`,
    ),
    h("p.soft", "Bold: what full depth's text doesn't have. Overlined: not full depth's prediction there."),
    rows.some(({ tokens }) => tokens) && h("div.row", legend(null, document.body), h("span.row.screen", ...toggles())),
    filter,
    box,
  );
}

function rightWords({ runs }) {
  const marked = runs.filter((run) => run.status === "ok" && rightOf(run) !== null);
  return marked.length ? `Right: ${marked.filter((run) => rightOf(run) === 1).length} of ${marked.length} runs.` : "";
}

// Returns a text with the settings that wrote it, and whether it is right. It has the colours of the setting whose name is
// under the pointer or in focus, or else of the one that exits most.
function saidBy(prompt, { text, members }, base) {
  const box = h("div"),
    whose = h("span.soft"),
    others = members.slice(MOST_NAMES),
    n = new Set(members.map(({ run }) => run.c)).size;
  const colour = (member) => {
    box.replaceChildren(colouredText(prompt, member, base) ?? h("div.tokens", ...spaced(text)));
    whose.textContent = member.tokens && members.length > 1 ? ` · colours of ${runShown(member.run)}` : "";
  };
  const link = (member) => {
    const recolour = () => colour(member);
    return h(
      "a",
      { href: address(prompt, member.run), title: runName(member.run), onpointerenter: recolour, onfocus: recolour },
      runShown(member.run),
    );
  };
  const links = (some) => some.flatMap((member, i) => [i ? ", " : "", link(member)]);
  const early = ({ run }) => run.counts.slice(0, -1).reduce((sum, n) => sum + n, 0);
  colour(sorted(members, early, true)[0]);
  return h(
    "article.said-by",
    h(
      "p.who-said",
      markOf(members[0].run),
      n === 1 ? " One setting wrote this: " : ` ${n} settings wrote this: `,
      ...links(members.slice(0, MOST_NAMES)),
      whose,
    ),
    box,
    others.length ? h("details", h("summary", `${others.length} more`), h("p", ...links(others))) : null,
  );
}

// Returns a run's tokens with links to the run's page, the first difference from full depth's marked; null without tokens.
function colouredText(prompt, { run, tokens }, base) {
  if (!tokens) return null;
  const marks = base ? compare(tokens, base) : { from: -1, same: new Set() };
  let n = Math.max(0, marks.from);
  for (let letters = 0; n < tokens.n && letters < MOST_LETTERS; n++) letters += pieceText(tokens.piece[n]).length;
  const box = tokenText(run, { ...tokens, n }, `Tokens of ${runName(run)}`, marks);
  box.removeAttribute("tabindex"); // keys are for the run's page
  hovers(box, placeInText, (t) => {
    if (t !== null) box.querySelector(`[data-i="${t}"]`).title = `Layer ${DATA.layers[tokens.rank[t]]}`;
  });
  box.addEventListener("click", ({ target }) => {
    const t = placeInText(target);
    if (t !== null && getSelection().isCollapsed) location.hash = address(prompt, run, { t });
  });
  if (n < tokens.n) box.append(h("span.soft", ` … ${form(tokens.n - n, "count")} more tokens`));
  return box;
}

// Returns a table of the runs, which is made when it is opened.
function promptNumbers(prompt) {
  const ontoggle = (event) => choose("prompt.numbers", event.target.open),
    details = h("details.fold", { open: choice("prompt.numbers", false), ontoggle }, h("summary", h("h2", "Numbers")));
  const rows = prompt.runs.map((run) => ({ prompt, run, name: runName(run), after: DATA.configurations[run.c].mark }));
  return unfold(details, () => [runsTable(`Configurations on prompt ${prompt.id}`, rows)]);
}

const notThere = (number) => h("p.bad", `Its tokens are in ${sideFile(number)}, which isn't next to this file.`);

function configurationsPage(key) {
  const runs = DATA.prompts.flatMap((prompt) =>
    runsOf(prompt, key).map((run) => ({
      prompt,
      run,
      name: promptName(prompt, 40) + ofSeed(run),
    })),
  );
  const chart = DATA.trade || DATA.charts[0];
  const row = chart?.table.rows.filter((found) => found.configuration === key);
  return [
    trail(key),
    h("h1", `${key} on every prompt`),
    ...ruleOf(key),
    row?.length ? h("p.soft", "Means over prompts") : null,
    row?.length
      ? numbers(chart.table.columns.slice(1).map((column) => [column.label, estimate(row[0], column)]))
      : null,
    h("h2", "Prompts"),
    DATA.prompts.length < DATA.counts.prompts ? h("p", held()) : null,
    runs.length
      ? runsTable(`Prompts under ${key}`, runs, "Prompt")
      : h("p", "No run of this configuration is committed yet."),
  ].filter(Boolean);
}

// Returns a sentence on oracle rules.
function ruleOf(key) {
  const { rule } = configurationOf(key);
  return DATA.rules[rule]?.oracle ? [h("p.soft", `Rule ${rule} is an oracle: ${ORACLE}.`)] : [];
}

// Returns one row per {prompt, run, name}; \`after\` follows the link.
function runsTable(caption, rows, first = "Configuration") {
  const columns = [
    {
      label: first,
      text: true,
      value: ({ prompt, run }) => (first === "Prompt" ? DATA.prompts.indexOf(prompt) : run.c),
      show: ({ prompt, run, name, after }) => h("span", h("a", { href: address(prompt, run) }, name), after),
    },
    ...(first === "Prompt" && rows.some(({ prompt }) => prompt.kind)
      ? [{ label: "Kind", text: true, value: ({ prompt }) => prompt.kind }]
      : []),
    {
      label: "Ended",
      text: true,
      value: ({ run }) => ending(run),
      look: ({ run }) => (run.status === "ok" ? null : "bad"),
    },
    ...DATA.metrics.map((metric, i) => ({
      label: metric.label,
      value: ({ run }) => run.m[i],
      form: metric.form,
    })),
  ];
  return table(caption, columns, rows);
}

// The pages of one prompt under every configuration (#/p/<id>), and of one configuration on every prompt
// (#/c/<configuration>).

async function promptPage(number) {
  const prompt = DATA.prompts[number];
  const cores = await coreOf(number);
  const neighbour = (other, label) => (other ? h("a", { href: address(other) }, label) : null);
  const page = [
    trail(`Prompt ${prompt.id}`),
    h("h1", `Prompt ${prompt.id}`),
    h("blockquote", { tabindex: 0, role: "group", "aria-label": "Prompt" }, ...visible(prompt.text)),
    ...(prompt.answer === null ? [] : [h("p", "Expected answer: ", h("strong", ...visible(prompt.answer)))]),
    h(
      "p.row",
      neighbour(DATA.prompts[number - 1], "← previous prompt"),
      neighbour(DATA.prompts[number + 1], "next prompt →"),
      prompt.why ? h("span.soft", `Held because: ${prompt.why}.`) : null,
    ),
  ];
  if (!prompt.runs.length) return [...page, h("p", "No run of this prompt has landed yet.")];
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

const MOST_NAMES = 3, // of the settings that wrote a text, before the others are folded
  MOST_LETTERS = 700; // of a text, before the rest is left to its run's page

// What each setting wrote, equal texts once: full depth's first, then from the likest to it on.
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
  const ordered = [
    ...made.filter(({ text }) => text === base?.text),
    ...sorted(
      made.filter(({ text }) => text !== base?.text),
      ({ from }) => from ?? 0,
      true,
    ),
  ];
  const right = metricAt("correct"),
    baseRight = base && right >= 0 ? base.members.find(isNormal).run.m[right] : null;
  const lost = ({ members }) => baseRight === 1 && members.some(({ run }) => run.m[right] === 0);
  const filters = ["all texts", "right at full depth, wrong here"];
  const make = (name) =>
    ordered
      .filter((group) => name === filters[0] || lost(group) || group.text === base?.text)
      .map((group) => saidBy(prompt, group));
  const [filter, box] = chosenBox("Show", "prompt.texts", ordered.some(lost) ? filters : filters.slice(0, 1), make);
  return h(
    "section",
    { "aria-labelledby": "written" },
    h(
      "h2",
      { id: "written" },
      `What was written: ${form(groups.size, "count")} different text${groups.size === 1 ? "" : "s"}`,
    ),
    right >= 0 && prompt.answer !== null ? h("p", rightWords(rows, right)) : null,
    filter,
    box,
  );
}

const rightWords = (rows, right) => {
  const marked = rows.filter(({ run }) => run.status === "ok" && run.m[right] !== null);
  return `Right: ${marked.filter(({ run }) => run.m[right] === 1).length} of ${marked.length} runs.`;
};

// A text with who wrote it, and whether it is right.
function saidBy(prompt, { text, members, from }) {
  const links = (some) =>
      some.flatMap(({ run }, i) => [
        i ? ", " : "",
        h("a", { href: address(prompt, run), title: runName(run) }, runShown(run)),
      ]),
    others = members.slice(MOST_NAMES),
    n = new Set(members.map(({ run }) => run.c)).size;
  return h(
    "article.said-by",
    h(
      "p.who-said",
      markOf(members[0].run),
      h("strong", n === 1 ? " One setting says this: " : ` ${n} settings say this: `),
      ...links(members.slice(0, MOST_NAMES)),
    ),
    h("p.text", ...wholeText(text, from)),
    others.length ? h("details", h("summary", `${others.length} more`), h("p", ...links(others))) : null,
  );
}

// A text with its first difference marked, in bold from there on.
function wholeText(text, from) {
  const end = Math.min(text.length, Math.max(MOST_LETTERS, (from ?? 0) + MOST_LETTERS / 2)),
    cut = from === null ? end : Math.min(from, end);
  return [
    ...spaced(text, 0, cut),
    from === null ? "" : h("span.differs", from < text.length ? "differs from here" : "ends here, full depth goes on"),
    cut < end ? h("strong", ...spaced(text, cut, end)) : "",
    end < text.length ? h("span.soft", ` … ${form(text.length - end, "count")} more letters`) : "",
  ];
}

// A table of the runs, which is made when it is asked for.
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
      : h("p", "No run of this configuration has landed yet."),
  ].filter(Boolean);
}

// A sentence on a rule that looks at the final layer.
function ruleOf(key) {
  const { rule } = configurationOf(key);
  return DATA.rules[rule]?.oracle ? [h("p.soft", `Rule ${rule} is an oracle: ${ORACLE}.`)] : [];
}

// One row per {prompt, run, name}; \`after\` follows the link.
function runsTable(caption, rows, first = "Configuration") {
  const columns = [
    {
      label: first,
      text: true,
      value: ({ prompt, run }) => (first === "Prompt" ? DATA.prompts.indexOf(prompt) : run.c),
      show: ({ prompt, run, name, after }) => h("span", h("a", { href: address(prompt, run) }, name), after),
    },
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

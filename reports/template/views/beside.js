// The overview's section "Side by side": anything beside anything, on the same prompts and seeds. Two modes, settings
// and their controls, one setting and all others, or a rule beside the best mix of another rule's settings that costs as
// much or is as good.

const ITS_CONTROL = "its control",
  ALL_OTHERS = "all others";

function besideFigure() {
  const { measures, caption } = DATA.beside,
    kinds = besideKinds();
  const picked = (key, names, first) => choiceOf(`beside.${key}`, names, first);
  const state = { kind: picked("kind", Object.keys(kinds)) };
  const controls = h("div.row"),
    said = h("output.in-words");
  const measure = () => measures.find(({ label }) => label === state.measure);
  const settle = () => {
    const { bases, others, ways } = kinds[state.kind];
    state.base = picked("base", bases, kinds[state.kind].firstBase);
    const left = others(state.base);
    state.other = picked("other", left);
    state.at = ways ? picked("at", ways) : null;
    const names = comparable(state.at).map(({ label }) => label),
      best = measures.find(({ key }) => key === matchingOf(state.at)?.best_by);
    state.measure = picked("measure", names, best?.label);
    correct("beside.measure", state.measure);
  };
  const change = (key) => (value) => {
    state[key] = value;
    choose(`beside.${key}`, value);
    settle();
    readdress(pathOf(location.hash));
    show();
    chart.update();
  };
  const show = () => {
    const { bases, others, ways, baseLabel = "Base", otherLabel = "Other" } = kinds[state.kind];
    const left = others(state.base),
      names = comparable(state.at).map(({ label }) => label);
    controls.replaceChildren(
      ...[
        chooser("Compare", Object.keys(kinds), state.kind, change("kind")),
        bases.length > 1 ? chooser(baseLabel, bases, state.base, change("base")) : null,
        left.length > 1 ? chooser(otherLabel, left, state.other, change("other")) : null,
        ways ? chooser("at", ways, state.at, change("at")) : null,
        chooser("Measure", names, state.measure, change("measure")),
      ].filter(Boolean),
    );
    said.replaceChildren(...besideWords(state, measure(), rows()));
  };
  const rows = () => kinds[state.kind].rows(state).map((row, order) => ({ ...row, order }));
  const chart = {
    key: "beside",
    id: "beside",
    title: "Side by side",
    caption,
    wide: true,
    variants: [
      {
        get spec() {
          return measure().spec;
        },
      },
    ],
    controls: [controls, said],
    rows,
    all: () => DATA.beside.base.length,
    prepare: (spec, shown) => ({ ...spec, height: { step: shown.length > 20 ? 18 : 22 } }),
    open: ({ key }) => key && openConfiguration({ configuration: key }),
    twin: () => besideTable(state, measure(), rows()),
    csv: () => rows().map(({ shown_as: name, ...row }) => ({ name, ...row })),
  };
  settle();
  show();
  return figure(chart);
}

const matchingOf = (at) => DATA.beside.matchings.find((each) => each.at === at);

// The measures that can be compared: beside a mix, those that are known of it, but not the one that is held equal.
function comparable(at) {
  const matching = matchingOf(at);
  return DATA.beside.measures.filter(({ key, is_matched }) => !matching || (is_matched && key !== matching.equal));
}

// What can be compared: for each kind, its bases, the others of a base, ways of matching, and the rows of a state.
function besideKinds() {
  const { averages, mixes } = DATA.beside,
    found = {},
    modes = [
      ...new Set(averages.filter(({ base }) => base !== ITS_CONTROL).flatMap(({ base, other }) => [base, other])),
    ];
  const keys = DATA.configurations.map(({ key }) => key),
    isExit = ({ rule, control_of: of }) => rule !== null && of === null;
  const exits = DATA.configurations.filter(isExit);
  if (modes.length > 1)
    found.modes = {
      bases: modes,
      others: (base) => modes.filter((mode) => mode !== base),
      rows: ({ base, other }) =>
        exits
          .filter(({ mode }) => mode === base)
          .map((one) => [one, exits.find((two) => two.mode === other && settingOf(two) === settingOf(one))])
          .filter(([, two]) => two)
          .map(([one, two]) => pairRow(one.key, two.key, settingOf(one))),
    };
  if (mixes.base?.length) {
    const series = [...new Set(mixes.base)];
    const others = (base) => [ALL_OTHERS, ...new Set(mixes.series.filter((_, i) => mixes.base[i] === base))];
    found["rules and exit sets"] = {
      bases: series,
      others,
      ways: [...new Set(mixes.at)],
      rows: ({ base, other, at }) =>
        mixes.base.flatMap((one, i) =>
          one === base && [mixes.series[i], ALL_OTHERS].includes(other) && mixes.at[i] === at
            ? [mixRow(i, other === ALL_OTHERS ? mixes.configuration[i] : mixes.label[i])]
            : [],
        ),
    };
  }
  const controlled = DATA.configurations.filter(({ control_of: of }) => keys.includes(of));
  if (controlled.length)
    found["settings and their controls"] = {
      bases: [ITS_CONTROL],
      others: () => ["settings"],
      rows: () => controlled.map(({ key, control_of: of }) => pairRow(key, of, of)),
    };
  found["one with all others"] = {
    bases: keys,
    firstBase: keys.includes(DATA.normal) ? DATA.normal : keys[0],
    others: () => [ALL_OTHERS],
    rows: ({ base }) => keys.filter((key) => key !== base).map((key) => pairRow(base, key, key)),
  };
  found["two settings"] = {
    bases: keys,
    others: (base) => keys.filter((key) => key !== base),
    rows: ({ base, other }) => [pairRow(base, other, other)],
  };
  for (const kind of Object.values(found)) {
    const all = kind.rows;
    kind.rows = (state) => all(state).filter(Boolean);
  }
  return found;
}

// A setting without its mode, as its key has it.
const settingOf = ({ key, mode }) => key.slice(mode.length + 1);

let pairsOf = { of: null, at: null };

// The number of a pair of configurations and whether it is held the other way round; null if the page lacks it.
function pairAt(base, other) {
  const { beside } = DATA;
  if (pairsOf.of !== beside) {
    pairsOf = { of: beside, at: new Map(beside.base.map((one, i) => [`${one} ${beside.other[i]}`, i])) };
  }
  const [one, two] = [base, other].map((key) => DATA.configurations.findIndex((each) => each.key === key)),
    straight = pairsOf.at.get(`${one} ${two}`);
  if (straight !== undefined) return { i: straight, turned: false };
  const turned = pairsOf.at.get(`${two} ${one}`);
  return turned === undefined ? null : { i: turned, turned: true };
}

function pairRow(base, other, name) {
  const pair = pairAt(base, other);
  if (!pair) return null;
  const { i, turned } = pair,
    { values, gains, measures } = DATA.beside;
  const row = { ...naming(configurationOf(other), name), base, other };
  for (const { key, none } of measures) {
    const of = (end) => values[key][end][i],
      turn = (value) => (value === null ? null : none ? 1 / value : -value);
    row[key] = turned ? turn(of("")) : of("");
    row[`${key}_low`] = turned ? turn(of("_high")) : of("_low");
    row[`${key}_high`] = turned ? turn(of("_low")) : of("_high");
    row[`${key}_n`] = of("_n");
  }
  if (gains._gained) {
    row.gained = gains[turned ? "_lost" : "_gained"][i];
    row.lost = gains[turned ? "_gained" : "_lost"][i];
    row.p = gains._p[i];
  }
  return row;
}

function mixRow(i, name) {
  const { mixes } = DATA.beside,
    configuration = configurationOf(mixes.configuration[i]);
  const row = {
    ...naming(configuration, name),
    base: mixes.mix[i],
    other: configuration.key,
    at: mixes.at[i],
  };
  for (const { key } of DATA.beside.measures)
    for (const end of ["", "_low", "_high", "_n"]) row[key + end] = mixes[key + end]?.[i] ?? null;
  return row;
}

const naming = ({ key, mode, rule }, name) => ({
  key,
  configuration: key,
  shown_as: name,
  mode,
  rule,
  family: rule ?? mode,
});

// What the rows say together: how many certainly differ, and the mean over them where all are of one kind.
function besideWords({ kind, base, other, at }, { key, label, form: how, none }, rows) {
  const known = rows.filter((row) => row[key] !== null);
  if (!known.length) return ["Nothing that can be compared so."];
  const sure = (end, isSo) => known.filter((row) => isNumber(row[key + end]) && isSo(row[key + end])).length;
  const more = sure("_low", (value) => value > none),
    less = sure("_high", (value) => value < none),
    n = Math.max(...known.map((row) => row[`${key}_n`])),
    seeds = DATA.beside.seeds > 1 ? `, up to ${DATA.beside.seeds} seeds each` : "";
  const [one, two] = kind === "settings and their controls" ? [ITS_CONTROL, "a setting"] : [base, other];
  const average = DATA.beside.averages.find((row) =>
    kind === "modes"
      ? [row.base, row.other].sort().join() === [base, other].sort().join()
      : kind.includes("controls") && row.base === ITS_CONTROL,
  );
  const words = [
    `${label}, ${two} beside ${kind === "rules and exit sets" ? `the best mix of ${one} at ${at}` : one}: `,
    `certainly higher in ${more} and lower in ${less} of ${known.length} (n = ${form(n, "count")} prompts${seeds}).`,
  ];
  if (average && isNumber(average[key])) {
    const turned = kind === "modes" && average.base !== base,
      ends = [key, ...(turned ? [`${key}_high`, `${key}_low`] : [`${key}_low`, `${key}_high`])].map(
        (name) => average[name],
      ),
      [mean, low, high] = ends.map((value) => (isNumber(value) ? form(turned ? -value : value, how) : null));
    words.push(` On average over ${average.settings}: ${mean}${low ? ` [${low}, ${high}]` : ""}.`);
  }
  return [words.join("")];
}

function besideTable({ kind, base, other, at }, measure, rows) {
  const several = [measure, ...comparable(at).filter((each) => each !== measure)].filter(({ key }) =>
    rows.some((row) => isNumber(row[key])),
  );
  const columns = [
    {
      label: "Setting",
      text: true,
      value: (row) => row.shown_as,
      show: (row) => configurationCell(row.other, row.shown_as),
    },
    ...(at ? [{ label: "Beside", text: true, value: (row) => row.base }] : []),
    ...several.map(({ key, label, form: how }) => ({
      label,
      key,
      value: (row) => row[key],
      show: (row) => estimate(row, { key, form: how }),
    })),
    ...(rows.some((row) => isNumber(row.gained))
      ? ["gained", "lost", "p"].map((key, i) => ({
          label: ["Right here alone", "Right in the base alone", "McNemar’s p"][i],
          key,
          value: (row) => row[key],
          form: i < 2 ? "count" : "real",
        }))
      : []),
    {
      label: "n prompts",
      key: `${measure.key}_n`,
      value: (row) => row[`${measure.key}_n`],
      form: "count",
    },
  ];
  const title = kind === "rules and exit sets" ? `${other} beside ${base}, at ${at}` : `${other} beside ${base}`;
  return table(`Side by side · ${title}`, columns, rows);
}

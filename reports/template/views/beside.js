// The overview's section "Side by side": comparisons on the same prompts and seeds. They are of two modes, of settings with
// their controls, of one setting with all others, or of a rule with the best mix of another rule's settings that costs as
// much or is as good.

const ITS_CONTROL = "its control",
  ALL_OTHERS = "all others",
  MODES = "modes",
  SAME_SETTING = "the same setting",
  SAME_EXITS = "the same exits, drawn at random";

function besideFigure() {
  const kinds = besideKinds(),
    controls = h("div.row"),
    said = h("output.in-words");
  let state = null;
  const rows = () =>
    kinds[state.kind]
      .rows(state)
      .filter((row) => isNumber(row[state.measure.key]))
      .map((row, order) => ({ ...row, order }));
  const show = () => {
    state = besideState(kinds);
    const change = (key) => (value) => {
      choose(`beside.${key}`, value);
      show();
      readdress(pathOf(location.hash));
      chart.update();
    };
    controls.replaceChildren(
      ...state.choices
        .filter(([, , names]) => names.length > 1)
        .map(([label, key, names]) =>
          chooser(label, names.map(inMenu), key === "measure" ? state.measure.label : state[key], change(key)),
        ),
    );
    said.replaceChildren(besideCaption(state, rows()) + leftOut(state));
  };
  const chart = {
    key: "beside",
    id: "beside",
    title: "Side by side",
    caption: DATA.beside.caption,
    wide: true,
    variants: [
      {
        get spec() {
          return state.measure.spec;
        },
      },
    ],
    controls: [controls, said],
    rows,
    all: () => DATA.beside.base.length,
    twin: () => besideTable(state, rows()),
    csv: () => rows().map(({ shown_as: name, ...row }) => ({ name, ...row })),
  };
  show();
  return figure(chart);
}

// Returns the reader's choices, {kind, base, other, at, measure}, and the available ones.
function besideState(kinds) {
  const pick = (key, names, first) => choiceOf(`beside.${key}`, names, first),
    names = Object.keys(kinds),
    kind = pick("kind", names),
    { bases, others, ways = [], firstBase } = kinds[kind],
    base = pick("base", bases, firstBase),
    other = pick("other", others(base)),
    at = ways.length ? pick("at", ways) : null,
    measures = comparable(at),
    labels = measures.map(({ label }) => label),
    best = measures.find(({ key }) => key === matchingOf(at)?.best_by),
    label = pick("measure", labels, best?.label);
  correct("beside.measure", label);
  const choices = [
    ["Compare", "kind", names],
    ["Base", "base", bases],
    ["Other", "other", others(base)],
    ["at", "at", ways],
    ["Measure", "measure", labels],
  ];
  return { kind, base, other, at, measure: measures.find((each) => each.label === label), choices };
}

const matchingOf = (at) => DATA.beside.matchings.find((each) => each.at === at);

// Returns the measures that can be compared; with a mix, those known of it except the one that is equal.
function comparable(at) {
  const matching = matchingOf(at);
  return DATA.beside.measures.filter(({ key, is_matched }) => !matching || (is_matched && key !== matching.equal));
}

// The kinds of comparison, each with its bases, the others of a base, ways of matching, and the rows of a state.
function besideKinds() {
  const { averages, mixes } = DATA.beside,
    keys = DATA.configurations.map(({ key }) => key),
    controls = DATA.configurations.filter(({ control_of: of }) => of !== null),
    controlled = keys.filter(controlKey),
    byMode = averages.filter(({ base }) => base !== ITS_CONTROL),
    modes = [...new Set(byMode.flatMap(({ base, other }) => [base, other]))];
  const found = {};
  // Pairs each configuration with the one of another mode that is `alike`.
  const acrossModes = (ones, { base, other }, alike) =>
    ones
      .filter(({ mode }) => mode === base)
      .map((one) => [one, ones.find((two) => two.mode === other && alike(two) === alike(one))])
      .map(([one, two]) => two && pairRow(one.key, two.key, alike(one)));
  if (modes.length > 1)
    found[MODES] = {
      bases: modes,
      others: (base) => modes.filter((mode) => mode !== base),
      ways: [...new Set([...byMode.map(({ at }) => at), ...(mixes.at ?? [])])],
      rows: (state) => {
        if (state.at === SAME_EXITS) return acrossModes(controls, state, ({ control_of: of }) => of);
        if (state.at === SAME_SETTING) {
          const deciding = besideExits().filter((one) => !isGiven(one));
          return acrossModes(deciding, state, settingOf);
        }
        return mixes.base.map(
          (base, i) => mixes.at[i] === state.at && isOfModes(state, base, mixes.series[i]) && mixRow(i, false),
        );
      },
    };
  if (mixes.base?.length)
    found["rules and exit sets"] = {
      bases: [...new Set(mixes.base)],
      others: (base) => [ALL_OTHERS, ...new Set(mixes.series.filter((_, i) => mixes.base[i] === base))],
      ways: [...new Set(mixes.at)],
      rows: ({ base, other, at }) =>
        mixes.base.map(
          (one, i) =>
            one === base &&
            [mixes.series[i], ALL_OTHERS].includes(other) &&
            mixes.at[i] === at &&
            mixRow(i, other === ALL_OTHERS),
        ),
    };
  if (controlled.length)
    found["settings and their controls"] = {
      bases: [ITS_CONTROL],
      others: () => ["settings"],
      rows: () => controlled.map((key) => pairRow(controlKey(key), key, key)),
    };
  found["one with all others"] = {
    bases: keys,
    firstBase: keys.includes(DATA.normal) ? DATA.normal : keys[0],
    others: (base) => [ALL_OTHERS, ...keys.filter((key) => key !== base)],
    rows: ({ base, other }) =>
      keys.filter((key) => key !== base && [key, ALL_OTHERS].includes(other)).map((key) => pairRow(base, key, key)),
  };
  for (const kind of Object.values(found)) {
    const all = kind.rows;
    kind.rows = (state) => all(state).filter(Boolean);
  }
  return found;
}

const besideExits = () => DATA.configurations.filter(({ rule, control_of: of }) => rule !== null && of === null);

// True if all its tokens exit at one layer, so that no later token attends to skipped layers.
const isGiven = ({ rule }) => DATA.rules[rule]?.score_name === "";

// True if two series are of these modes, and of the same exit set and rule, which has an exit score.
function isOfModes({ base, other }, ...series) {
  const [one, two] = series.map((name) => name.split("/"));
  return one[0] === base && two[0] === other && one[1] === two[1] && !isGiven({ rule: one[1].split(/[@+]/)[0] });
}

// Returns a setting's key without its mode.
const settingOf = ({ key, mode }) => key.slice(mode.length + 1);

const naming = ({ key, mode, rule }, name) => ({
  configuration: key,
  shown_as: name,
  short: shortOf(name),
  mode,
  rule,
  family: rule ?? mode,
});

// Returns the other compared with the base. Each pair is stored once; in the other direction, signs and ends change.
function pairRow(base, other, name) {
  const { beside } = DATA,
    [one, two] = [base, other].map((key) => DATA.configurations.findIndex((each) => each.key === key)),
    straight = beside.pairs.get(`${one} ${two}`),
    turned = straight === undefined,
    i = straight ?? beside.pairs.get(`${two} ${one}`);
  if (i === undefined) return null;
  const row = { ...naming(configurationOf(other), name), base, other },
    [low, high, gained, lost] = turned ? ["_high", "_low", "_lost", "_gained"] : ["_low", "_high", "_gained", "_lost"];
  for (const { key, none } of beside.measures) {
    const values = beside.values[key],
      turn = (value) => (value === null || !turned ? value : none ? 1 / value : -value);
    row[key] = turn(values[""][i]);
    row[`${key}_low`] = turn(values[low][i]);
    row[`${key}_high`] = turn(values[high][i]);
    row[`${key}_n`] = values._n[i];
  }
  if (beside.gains._gained)
    Object.assign(row, { gained: beside.gains[gained][i], lost: beside.gains[lost][i], p: beside.gains._p[i] });
  return row;
}

function mixRow(i, isOneOfAll) {
  const { mixes, measures } = DATA.beside,
    configuration = configurationOf(mixes.configuration[i]),
    name = isOneOfAll ? configuration.key : settingOf(configuration),
    row = { ...naming(configuration, name), base: mixes.mix[i], other: configuration.key, at: mixes.at[i] };
  for (const { key } of measures)
    for (const end of ["", "_low", "_high", "_n"]) row[key + end] = mixes[key + end]?.[i] ?? null;
  return row;
}

// Returns how many rows certainly differ, and their mean where all are of one kind.
function besideCaption({ kind, base, other, at, measure: { key, form: how, none } }, rows) {
  if (!rows.length) return "Nothing that can be compared so.";
  const sure = (end, isSo) => rows.filter((row) => isNumber(row[key + end]) && isSo(row[key + end])).length,
    more = sure("_low", (value) => value > none),
    less = sure("_high", (value) => value < none),
    n = Math.max(...rows.map((row) => row[`${key}_n`])),
    seeds = DATA.beside.seeds > 1 ? `, up to ${DATA.beside.seeds} seeds each` : "";
  const words = `Certainly higher: ${more}, lower: ${less} of ${rows.length} (n = ${form(n, "count")} prompts${seeds}).`;
  const average = DATA.beside.averages.find(
    (row) =>
      row.at === at &&
      [row.base, row.other].includes(base) &&
      (kind !== MODES || [row.base, row.other].includes(other)),
  );
  if (!average || !isNumber(average[key])) return words;
  const turned = average.base !== base,
    ends = turned ? ["", "_high", "_low"] : ["", "_low", "_high"],
    [mean, low, high] = ends
      .map((end) => average[key + end])
      .map((value) => (isNumber(value) ? form(turned ? -value : value, how) : null));
  return `${words} Mean of ${average.settings}: ${mean}${low ? ` [${low}, ${high}]` : ""}.`;
}

// Returns the settings that are equal in every mode by construction; they would dilute a mode's effect.
function leftOut({ kind, at }) {
  const given = kind === MODES && at === SAME_SETTING ? besideExits().filter(isGiven).map(settingOf) : [];
  return given.length ? ` Left out, the same in every mode: ${[...new Set(given)].join(", ")}.` : "";
}

function besideTable({ base, other, at, measure }, rows) {
  const several = [measure, ...comparable(at).filter((each) => each !== measure)].filter(({ key }) =>
    rows.some((row) => isNumber(row[key])),
  );
  const columns = [
    {
      label: "Configuration",
      text: true,
      value: (row) => row.shown_as,
      show: (row) => configurationCell(row.other, row.shown_as),
    },
    ...(matchingOf(at) ? [{ label: "Beside", text: true, value: (row) => row.base }] : []),
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
  return table(`Side by side · ${other} beside ${base}${at ? `, at ${at}` : ""}`, columns, rows);
}

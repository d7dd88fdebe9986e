// The overview's first chart: quality against cost. Online rules are in front, with direct labels and what nothing beats;
// other modes, oracles, controls and settings that were replayed are shown on demand.

const isBlind = (row) => row.control_of !== null || DATA.rules[row.rule]?.sees === "";
const isOnline = (row) => row.rule !== null && !row.oracle && !isBlind(row);

function tradeFigure(chart) {
  const rows = chart.table.rows.filter((row) => row.rule !== null),
    online = rows.filter(isOnline),
    front = online.length ? online : rows.filter((row) => !isBlind(row)),
    swept = new Set(rows.filter(({ control_of: of }) => of === null).map(({ mode }) => mode)),
    modes = [...new Set([...Object.keys(DATA.modes), ...swept])].filter((mode) => swept.has(mode));
  const own = rows.filter(({ control_of: of }) => of === null),
    severalRules = new Set(own.map(({ rule }) => rule)).size > 1;
  const names = (axis) => [...new Set(chart.variants.map((variant) => variant[axis]))];
  const picked = (axis) => choiceOf(`quality.${axis}`, names(axis));
  const state = {
    y: picked("y"),
    x: picked("x"),
    modes: new Set(
      choice(
        "quality.modes",
        severalRules ? (modes.find((mode) => front.some((row) => row.mode === mode)) ?? "") : modes.join(","),
      )
        .split(",")
        .filter((mode) => modes.includes(mode)),
    ),
    oracles: choice("quality.oracles", !online.length),
    controls: choice("quality.controls", !front.length),
    replayed: choice("quality.replayed", false),
  };
  const chosenVariant = () =>
    chart.variants.find(({ y, x }) => y === state.y && x === state.x) ?? chart.variants.find(({ y }) => y === state.y);
  const note = h("span");
  const tell = () => {
    const { x, y } = shown.variants[0].axes,
      isEmpty = !visible().some((row) => row.rule !== null && isNumber(row[x]) && isNumber(row[y]));
    note.replaceChildren(
      isEmpty ? "Nothing that is shown has both of these: show others. " : "",
      shown.variants[0].note,
    );
  };
  const renew = () => {
    shown.variants[0] = chosenVariant();
    tell();
    shown.update();
  };
  const select = (label, axis) =>
    names(axis).length < 2
      ? null
      : chooser(label, names(axis), state[axis], (name) => {
          state[axis] = name;
          choose(`quality.${axis}`, name);
          renew();
        });
  const toggle = (label, isOn, flip) => {
    const control = button(label, isOn(), () => {
      flip();
      control.setAttribute("aria-pressed", String(isOn()));
      renew();
    });
    return control;
  };
  const flag = (label, key) =>
    toggle(
      label,
      () => state[key],
      () => {
        state[key] = !state[key];
        choose(`quality.${key}`, state[key]);
      },
    );
  const modeToggle = (mode) =>
    toggle(
      mode,
      () => state.modes.has(mode),
      () => {
        if (!state.modes.delete(mode)) state.modes.add(mode);
        choose("quality.modes", modes.filter((each) => state.modes.has(each)).join(","));
      },
    );
  const replayed = chart.replayed?.rows ?? [];
  const isShown = (row) =>
    row.rule === null ||
    (state.modes.has(row.mode) && (isBlind(row) ? state.controls : row.oracle ? state.oracles : true));
  const visible = () => [
    ...chart.table.rows.filter(isShown).map((row) => (state.controls ? row : withoutControl(row))),
    ...(state.replayed ? replayed.filter(({ mode }) => state.modes.has(mode)) : []),
  ];
  const shown = {
    ...chart,
    variants: [chosenVariant()],
    controls: [
      select("Quality", "y"),
      select("Saved", "x"),
      h(
        "span.segments",
        { role: "group", "aria-label": "Shown" },
        ...(modes.length > 1 ? modes.map(modeToggle) : []),
        online.length && rows.some((row) => row.oracle && !isBlind(row)) ? flag("oracles", "oracles") : null,
        front.length && rows.some(isBlind) ? flag("controls", "controls") : null,
        replayed.length ? flag("replayed", "replayed") : null,
      ),
    ],
    rows: visible,
    csv: () => chart.table.rows,
    prepare: withoutLegends,
    drawn: (view) => labelTrade(view, visible(), shown.variants[0].axes, severalRules),
    open: ({ configuration }) => {
      if (DATA.configurations.some(({ key }) => key === configuration)) openConfiguration({ configuration });
    },
    twin: () => {
      const { y, x, shown: keys } = chosenVariant();
      const columns = chart.table.columns.filter(({ key }) => keys.includes(key));
      const tables = [twin(`${y} against ${x}`, { columns, rows: visible().filter((row) => !row.replayed) })];
      if (replayed.length) tables.push(twin("Settings that were replayed", chart.replayed));
      return h("div", ...tables);
    },
    below: () => modeKey(modes, severalRules),
  };
  tell();
  shown.captionNodes = () => [note, " ", tradeCaption(shown.variants[0].axes, online.length > 0)];
  return figure(shown);
}

const tradeCaption = (axes, hasOnline) =>
  [
    axes.y === "correct" && DATA.margin ? "Grey band: as good as full depth." : "",
    axes.better !== null && hasOnline ? "Thick line: what no online setting that is shown beats in both." : "",
    "A click opens a setting.",
  ]
    .filter(Boolean)
    .join(" ");

// Labels stand beside the points instead.
const withoutLegends = (spec) => ({
  ...spec,
  layer: spec.layer.map((layer) => ({
    ...layer,
    encoding: Object.fromEntries(
      Object.entries(layer.encoding).map(([name, channel]) => [
        name,
        channel.legend ? { ...channel, legend: null } : channel,
      ]),
    ),
  })),
});

const withoutControl = (row) =>
  Object.fromEntries(Object.entries(row).map(([key, value]) => [key, key.endsWith("_control") ? null : value]));

const LINES = ["solid", "solid", "dashed", "dotted", "double"]; // of modes in DATA.modes' order, as reports/shared/styles.py has them

function modeKey(modes, severalRules) {
  if (!severalRules || modes.length < 2) return null;
  const all = Object.keys(DATA.modes);
  const first = all.includes(DATA.normal) ? 0 : 1;
  return h(
    "ul.legend.modekey",
    { "aria-label": "Lines of modes" },
    ...modes.map((mode) => {
      const line = h("span.line");
      line.style.borderTopStyle = LINES[Math.min(all.indexOf(mode) + first, LINES.length - 1)];
      return h("li", line, mode);
    }),
  );
}

// The labels, the most important first: full depth, each series at the end that saves most, and then every parameter.
function labelTrade(view, rows, axes, severalRules) {
  const known = rows.filter(
      (row) => isNumber(row[axes.x]) && isNumber(row[axes.y]) && !row.replayed && row.beneath === null,
    ),
    points = known.filter(({ rule }) => rule !== null),
    narrow = view.width() < NARROW;
  const seriesEnd = new Map();
  for (const row of points) {
    const end = seriesEnd.get(row.series);
    if (!end || row[axes.x] > end[axes.x]) seriesEnd.set(row.series, row);
  }
  const severalModes = new Set(points.map(({ mode }) => mode)).size > 1;
  const named = (row) => {
    const first = severalRules || !severalModes ? row.family : row.mode,
      parts = row.parameter === null && first === row.family ? [row.label] : [first, row.label]; // its label names the rule
    return parts.filter(Boolean).join(" ") + (severalRules && severalModes && !narrow ? ` · ${row.mode}` : "");
  };
  const ends = new Set(seriesEnd.values()),
    of = (row, text) => ({ row, text: text + (row.looping ? " ↻" : "") }),
    full = known.filter(({ mode }) => mode === DATA.normal && axes.even === null);
  const labels = [
    ...full.map((row) => of(row, `full depth ${written(row[axes.y], axes)}`)),
    ...[...ends].map((row) => of(row, named(row))),
    ...points.filter((row) => !ends.has(row) && row.parameter !== null).map((row) => of(row, row.label)),
  ];
  return labelOn(view, labels, known, axes);
}

const written = (value, axes) => form(value, axes.is_share ? "share" : "real");

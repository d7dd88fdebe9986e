// The overview's first chart: quality against cost. Online rules are in front; other modes, oracles, controls and settings
// that were replayed are optional.

const isBlind = (row) => row.control_of !== null || DATA.rules[row.rule]?.score_name === "";
const isOnline = (row) => row.rule !== null && !row.oracle && !isBlind(row);

function tradeFigure(chart) {
  const rows = chart.table.rows.filter((row) => row.rule !== null),
    own = rows.filter(({ control_of: of }) => of === null),
    online = rows.filter(isOnline),
    front = online.length ? online : rows.filter((row) => !isBlind(row)),
    replayed = chart.replayed?.rows ?? [];
  const all = [...new Set(DATA.configurations.map(({ mode }) => mode))],
    modes = all.filter((mode) => own.some((row) => row.mode === mode)),
    isOneRule = new Set(own.map(({ rule }) => rule)).size < 2,
    first = isOneRule ? modes : modes.filter((mode) => front.some((row) => row.mode === mode)).slice(0, 1);
  const names = (axis) => [...new Set(chart.variants.map((variant) => variant[axis]))];
  const state = {
    y: choiceOf("quality.y", names("y")),
    x: choiceOf("quality.x", names("x")),
    modes: new Set(choice("quality.modes", first.join(",")).split(",")),
    oracles: choice("quality.oracles", !online.length),
    controls: choice("quality.controls", !front.length),
    replayed: choice("quality.replayed", false),
  };
  const variant = () =>
    chart.variants.find(({ y, x }) => y === state.y && x === state.x) ?? chart.variants.find(({ y }) => y === state.y);
  const change = (key, value) => {
    state[key] = value;
    choose(`quality.${key}`, value instanceof Set ? modes.filter((mode) => value.has(mode)).join(",") : value);
    shown.update();
  };
  const select = (label, axis) =>
    names(axis).length > 1 && chooser(label, names(axis), state[axis], (name) => change(axis, name));
  const flag = (key) =>
    toggle(
      key,
      () => state[key],
      () => change(key, !state[key]),
    );
  const ofMode = (mode) =>
    toggle(
      mode,
      () => state.modes.has(mode),
      () => change("modes", new Set(modes.filter((each) => (each === mode) !== state.modes.has(each)))),
    );
  const isShown = (row) =>
    row.rule === null ||
    (state.modes.has(row.mode) && (isBlind(row) ? state.controls : row.oracle ? state.oracles : true));
  const visible = () => [
    ...chart.table.rows.filter(isShown).map((row) => (state.controls ? row : withoutControl(row))),
    ...(state.replayed ? replayed.filter(({ mode }) => state.modes.has(mode)) : []),
  ];
  const shown = {
    ...chart,
    id: "quality",
    canFit: chart.variants.some(canFit),
    get variants() {
      return [variant()];
    },
    controls: [
      select("Quality", "y"),
      select("Saved", "x"),
      h(
        "span.segments",
        { role: "group", "aria-label": "Shown" },
        ...(modes.length > 1 ? modes.map(ofMode) : []),
        online.length && rows.some((row) => row.oracle && !isBlind(row)) ? flag("oracles") : null,
        front.length && rows.some(isBlind) ? flag("controls") : null,
        replayed.length ? flag("replayed") : null,
      ),
    ],
    rows: visible,
    csv: () => chart.table.rows,
    get caption() {
      const { axes, note } = variant();
      const isDrawn = visible().some((row) => row.rule !== null && isNumber(row[axes.x]) && isNumber(row[axes.y]));
      return `${isDrawn ? "" : "Nothing that is shown has both of these: show others. "}${note} ${chart.caption}`;
    },
    twin: () => {
      const { y, x, axes } = variant(),
        columns = chart.table.columns.filter(({ key }) => ["configuration", axes.y, axes.x, "chosen"].includes(key));
      const tables = [
        twin(`${y} against ${x}`, { columns, rows: ofSelection(chart, visible()).filter((row) => !row.replayed) }),
      ];
      if (replayed.length) tables.push(twin("Settings that were replayed", chart.replayed));
      return h("div", ...tables);
    },
  };
  return figure(shown);
}

const withoutControl = (row) =>
  Object.fromEntries(Object.entries(row).map(([key, value]) => [key, key.endsWith("_control") ? null : value]));

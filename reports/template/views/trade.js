// The overview's first chart: quality against cost. Online rules are in front, with direct labels and what nothing beats;
// other modes, oracles, controls and settings that were replayed are shown on demand.

const LEFT = 50, // pixels beside the plot
  RIGHT = 20,
  ABOVE = 26,
  BELOW = 42,
  TALL = 330;

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
    prepare: (spec, rows, width) => tradeSpec(spec, rows, width, shown.variants[0].axes, severalRules),
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

const withoutControl = (row) =>
  Object.fromEntries(Object.entries(row).map(([key, value]) => [key, key.endsWith("_control") ? null : value]));

const LINES = ["solid", "solid", "dashed", "dotted", "double"]; // of modes in DATA.modes' order, as styles.py has them

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

// The specification with its scales fixed, so that labels can be placed in pixels.
function tradeSpec(spec, rows, width, axes, severalRules) {
  const [ink, soft, paperColour, line] = coloursOf("ink", "soft", "paper", "line"),
    narrow = width < NARROW,
    right = narrow ? 8 : RIGHT,
    area = { width: Math.max(120, width - LEFT - right), height: narrow ? 300 : TALL };
  const known = rows.filter(
      (row) => isNumber(row[axes.x]) && isNumber(row[axes.y]) && !row.replayed && row.beneath === null,
    ),
    normal = known.find(({ mode }) => mode === DATA.normal),
    level = axes.even ?? normal?.[axes.y] ?? null;
  const xs = scaleOf(valuesOf(rows, axes.x, false), area.width, { zero: true, room: 0.04 }),
    ys = scaleOf([...valuesOf(rows, axes.y, true), ...(level === null ? [] : [level])], area.height, {
      zero: axes.is_share,
      logarithmic: axes.logarithmic,
      room: 0.06,
      most: axes.is_share ? 1 : Infinity,
    });
  const at = (row) => ({ x: xs.at(row[axes.x]), y: area.height - ys.at(row[axes.y]) });
  const points = known.filter(({ rule }) => rule !== null);
  const labels = placeLabels(labelsOf(points, axes, at, severalRules, narrow, normal), known.map(at), area);
  const scales = { x: { domain: xs.domain, nice: false, zero: false }, y: ys.scale };
  const fixed = (name, channel) => {
    const { scale: _, axis, title, ...others } = channel;
    return { ...others, title, scale: scales[name], axis: name === "x" ? axis : yAxis(axis ?? {}) };
  };
  const yAxis = (axis) => ({
    ...axis,
    titleAngle: 0,
    titleAlign: "left",
    titleAnchor: "end",
    titleX: -LEFT + 6,
    titleY: -12,
  });
  const layers = spec.layer
    .filter(({ mark, encoding }) => mark.type !== "text" && !encoding.x2?.field?.endsWith("_high"))
    .map((layer) => {
      const encoding = Object.fromEntries(
        Object.entries(layer.encoding).map(([name, channel]) => {
          if (["x", "y"].includes(name) && channel.field) return [name, fixed(name, channel)];
          return ["color", "shape", "strokeDash"].includes(name) && channel.field
            ? [name, { ...channel, legend: null }]
            : [name, channel];
        }),
      );
      if (encoding.y2?.field?.endsWith("_high"))
        return { ...layer, encoding: { ...encoding, opacity: { value: 0.35 } } };
      return { ...layer, encoding };
    });
  const colour = spec.layer.map(({ encoding }) => encoding.color).find((each) => each?.scale),
    pixels = (field) => ({ field, type: "quantitative", scale: null, axis: null });
  const text = (align, others) => ({
    data: { values: labels.filter((label) => label.align === align) },
    mark: {
      type: "text",
      font: "system-ui, sans-serif",
      fontSize: 11.5,
      fontWeight: 600,
      align,
      baseline: "middle",
      aria: false,
      ...others.mark,
    },
    encoding: { x: pixels("lx"), y: pixels("ly"), text: { field: "text", type: "nominal" }, ...others.encoding },
  });
  const used = ["left", "center", "right"].filter((align) => labels.some((label) => label.align === align)),
    tint =
      severalRules && colour
        ? { color: { ...colour, legend: null, condition: undefined } }
        : colour
          ? { color: { ...colour, legend: null } }
          : {};
  const leads = labels.filter((label) => label.leads);
  return {
    ...spec,
    width: area.width,
    height: area.height,
    padding: { left: LEFT, right, top: ABOVE, bottom: BELOW },
    autosize: { type: "none" },
    layer: [
      ...band(level, axes, fixed("y", layers[0].encoding.y), line),
      ...frontier(points, normal, axes, at, soft, pixels),
      ...layers,
      ...(normal ? [normalMark(at(normal), ink, pixels)] : []),
      ...(leads.length
        ? [
            {
              data: { values: leads },
              mark: { type: "rule", strokeWidth: 1, color: soft, aria: false },
              encoding: { x: pixels("x"), y: pixels("y"), x2: { field: "lx" }, y2: { field: "ly" } },
            },
          ]
        : []),
      ...used.map((align) =>
        text(align, { mark: { stroke: paperColour, strokeWidth: 4, color: paperColour }, encoding: {} }),
      ),
      ...used.map((align) => text(align, { mark: {}, encoding: tint })),
    ],
  };
}

const isNumber = (value) => typeof value === "number";

const valuesOf = (rows, key, ends) =>
  rows
    .flatMap((row) => [
      row[key],
      ...(ends && row.rule !== null ? [row[`${key}_low`], row[`${key}_high`]] : []),
      row[`${key}_control`],
    ])
    .filter(isNumber);

// A scale over the values with some room: its domain, and the pixel of a value.
function scaleOf(values, size, { zero, logarithmic = false, room, most = Infinity }) {
  const into = logarithmic ? Math.log : (value) => value,
    back = logarithmic ? Math.exp : (value) => value;
  const all = values.filter((value) => !logarithmic || value > 0).map(into);
  let low = Math.min(...all, ...(zero ? [0] : [])),
    high = Math.max(...all, ...(zero ? [0] : []));
  if (!(high > low)) [low, high] = [low - 0.5, high + 0.5];
  const gap = room * (high - low);
  if (!zero || low < 0) low -= gap;
  else low -= gap / 2;
  high = Math.min(high + gap, Math.max(into(most), high));
  const domain = [back(low), back(high)];
  return {
    domain,
    at: (value) => ((into(value) - low) / (high - low)) * size,
    scale: logarithmic ? { type: "log", domain, nice: false } : { domain, nice: false, zero: false },
  };
}

// The labels, the most important first: full depth, each series at the end that saves most, and then every parameter.
function labelsOf(points, axes, at, severalRules, narrow, normal) {
  const seriesEnd = new Map();
  for (const row of points) {
    const end = seriesEnd.get(row.series);
    if (!end || row[axes.x] > end[axes.x]) seriesEnd.set(row.series, row);
  }
  const severalModes = new Set(points.map(({ mode }) => mode)).size > 1;
  const named = (row) => {
    const first = severalRules || !severalModes ? row.family : row.mode,
      parts = row.parameter === null && first === row.family ? [row.label] : [first, row.label]; // its label names the rule
    const loops = row.looping ? " ↻" : "";
    return parts.filter(Boolean).join(" ") + (severalRules && severalModes && !narrow ? ` · ${row.mode}` : "") + loops;
  };
  const ends = new Set(seriesEnd.values());
  const of = (row, text) => ({ ...at(row), text, family: row.family, mode: row.mode, rule: row.rule });
  const full = normal && axes.even === null ? [{ ...of(normal, `full depth ${written(normal[axes.y], axes)}`) }] : [];
  return [
    ...full,
    ...points.filter((row) => ends.has(row)).map((row) => of(row, named(row))),
    ...points
      .filter((row) => !ends.has(row) && row.parameter !== null)
      .map((row) => of(row, row.label + (row.looping ? " ↻" : ""))),
  ];
}

const written = (value, axes) => form(value, axes.is_share ? "share" : "real");

// What counts as good as full depth: within the margin, where the measure is one of right answers.
function band(level, axes, y, line) {
  if (level === null) return [];
  const rule = {
    data: { values: [{ level }] },
    mark: { type: "rule", strokeDash: [5, 4], aria: false },
    encoding: { y: { ...y, field: "level" } },
  };
  if (axes.y !== "correct" || !DATA.margin) return [rule];
  const values = [{ level, within: level - DATA.margin }];
  const area = {
    data: { values },
    mark: { type: "rect", color: line, opacity: 0.8, aria: false },
    encoding: { y: { ...y, field: "within" }, y2: { field: "level" } },
  };
  return [area, rule];
}

// A line through full depth and the online settings that no other shown one beats in both.
function frontier(points, normal, axes, at, colour, pixels) {
  if (axes.better === null) return [];
  const sign = axes.better ? 1 : -1;
  const of = [...(normal ? [normal] : []), ...points.filter(isOnline)].sort(
    (a, b) => b[axes.x] - a[axes.x] || sign * (b[axes.y] - a[axes.y]),
  );
  let best = -Infinity;
  const front = of.filter((row) => {
    const value = sign * row[axes.y],
      keep = value > best;
    best = Math.max(best, value);
    return keep;
  });
  if (front.length < 2) return [];
  return [
    {
      data: { values: front.map((row, order) => ({ ...at(row), order })) },
      mark: { type: "line", strokeWidth: 9, opacity: 0.22, color: colour, aria: false, strokeCap: "round" },
      encoding: { x: pixels("x"), y: pixels("y"), order: { field: "order", type: "quantitative" } },
    },
  ];
}

const normalMark = (place, ink, pixels) => ({
  data: { values: [place] },
  mark: { type: "point", shape: "square", filled: true, size: 110, color: ink, opacity: 1, aria: false },
  encoding: { x: pixels("x"), y: pixels("y") },
});

// Placing labels beside points, so that none covers another one or a point, and none is lost: a label that finds no free
// place near its point is drawn further off, with a line that leads to it.

const LABEL_FONT = "600 11.5px system-ui, sans-serif";
const LABEL_HEIGHT = 13;
const DIRECTIONS = [
  [0, -1],
  [0, 1],
  [1, 0],
  [-1, 0],
  [1, -1],
  [-1, -1],
  [1, 1],
  [-1, 1],
];
const RINGS = [12, 22, 34, 48, 64, 84, 110, 140, 180]; // pixels from the point
const LEADS = 20; // from this distance on, a line leads to the label

let ruler = null;

function widthOf(text) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = LABEL_FONT;
  return ruler.measureText(text).width + 2;
}

// `labels` are {x, y, text} in pixels, the most important first; `points` are {x, y}, to be kept free. `area` is
// {width, height}. Gives for each label {...label, lx, ly, align, leads}.
function placeLabels(labels, points, area) {
  const taken = points.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }));
  return labels.map((label) => {
    const wide = widthOf(label.text);
    let best = null;
    for (const ring of RINGS) {
      for (const [across, down] of DIRECTIONS) {
        const at = boxAt(label, wide, across * ring, down * ring);
        if (at.left < 0 || at.right > area.width || at.top < 0 || at.bottom > area.height) continue;
        const covered = taken.filter((other) => overlap(at, other)).length;
        if (!best || covered < best.covered) best = { ...at, covered, ring };
        if (!covered) break;
      }
      if (best && !best.covered) break;
    }
    best ??= { ...boxAt(label, wide, 0, -RINGS[0]), ring: RINGS[0] };
    taken.push(best);
    return { ...label, lx: best.lx, ly: best.ly, align: best.align, leads: best.ring >= LEADS };
  });
}

function boxAt({ x, y }, wide, dx, dy) {
  const align = dx > 0 ? "left" : dx < 0 ? "right" : "center";
  const lx = x + (dy ? 0.7 * dx : dx),
    ly = y + (dx ? 0.7 * dy : dy),
    left = lx - { left: 0, center: wide / 2, right: wide }[align];
  return { lx, ly, align, left, right: left + wide, top: ly - LABEL_HEIGHT / 2, bottom: ly + LABEL_HEIGHT / 2 };
}

const overlap = (one, other) =>
  one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;

// Labels for the points of a chart that is drawn, at its scales: {row, text}, the most important first. `points` are the
// rows to be kept free, and `x` and `y` the columns that the chart draws.
function labelOn(view, labels, points, { x, y }) {
  const across = view.scale("x"),
    up = view.scale("y"),
    at = (row) => ({ x: across(row[x]), y: up(row[y]) }),
    area = { width: across.range()[1], height: up.range()[0] };
  const placed = placeLabels(
    labels.map(({ row, text }) => ({ ...at(row), row, text })),
    points.map(at),
    area,
  );
  const beside = placed.map(({ row, text, align, leads, ...at }) => ({
    ...row,
    text,
    align,
    leads,
    dx: at.lx - at.x,
    dy: at.ly - at.y,
  }));
  return view.data("labels", beside).runAsync();
}

const isNumber = (value) => typeof value === "number";

// Grid of layers × positions: each layer's most likely token at each position of a text, as in the logit lens.

const ROOMY = 1100; // pixels; in a window this wide, the grid of a short text is open at first
const SHORT = 128; // tokens
const KL_LEVELS = [0.1, 0.5, 2, 5]; // nats; a cell above the last has no background

// Returns the grid, which is built when it is first opened. `mark(i)` highlights a position.
function layerGrid(run, tokens, detail) {
  const grid = {
    box: h("div.scroll.grid", { tabindex: 0, role: "group", "aria-label": `Layers by positions of ${runName(run)}` }),
    mark: () => {},
  };
  const hasRoom = innerWidth >= ROOMY && tokens.n <= SHORT && "top" in DATA.kinds;
  const details = h(
    "details.screen",
    { open: choice("grid", hasRoom) },
    h("summary", `Layers × positions of ${runName(run)}: each layer's prediction`),
  );
  const fill = () => {
    const rows = "top" in DATA.kinds ? Array.from({ length: tokens.n }, (_, i) => detail(i)) : [],
      known = rows.some(({ top }) => top);
    if (!known)
      return [h("p.soft", "Not recorded: a sweep has each layer's likeliest tokens with --record-top-k 1 or more.")];
    const table = gridTable(tokens, rows);
    grid.box.append(table);
    grid.mark = (i) => bringOut(grid.box, table, i);
    return [
      h(
        "p.soft",
        "Framed: the layer that the token was read after. Underlined: not full depth's prediction. A click or the arrow keys go to the token.",
      ),
      gridColours(
        table,
        rows.some(({ kl }) => kl),
      ),
      grid.box,
    ];
  };
  grid.details = unfold(details, fill);
  details.addEventListener("toggle", () => {
    choose("grid", details.open);
    grid.mark(grid.at ?? null);
  });
  return grid;
}

// One row per exit rank, with the final layer last, then the generated tokens. A cell has class "same" if its token is
// that of the final layer.
function gridTable(tokens, rows) {
  const position = (_, i) => h("th", { scope: "col" }, String(i));
  const layers = DATA.layers.map((layer, rank) =>
    h(
      "tr",
      h("th", { scope: "row" }, h(`span.swatch.c${rank}`), layer),
      ...rows.map(({ top, kl }, i) => {
        if (!top) return h("td", "–");
        const first = top[rank][0].piece,
          nats = rank === DATA.final ? 0 : kl ? kl[rank] : Infinity,
          level = KL_LEVELS.findIndex((most) => nats < most);
        const cell = h("td", ...alone(first));
        cell.className = `${first === top[DATA.final][0].piece ? "same" : ""} k${level} ${rank === tokens.rank[i] ? "exit" : ""}`;
        return cell;
      }),
    ),
  );
  const said = Array.from(tokens.piece, (piece, i) => h(tokens.disagrees?.[i] ? "td.other" : "td", ...alone(piece)));
  return h(
    "table",
    h("thead", h("tr", h("th", { scope: "col" }, "Layer"), ...rows.map(position))),
    h("tbody", ...layers, h("tr.said", h("th", { scope: "row" }, "Generated"), ...said)),
  );
}

function gridColours(table, hasKl) {
  const ways = [
      ["agreement", "agreement with the final layer"],
      ["kl", "KL"],
    ],
    legend = h("ul.legend", { "aria-label": "Colours" });
  const item = (level, words) => h("li", h(`span.swatch.k${level}`), words);
  const show = (way) => {
    table.className = `by-${way}`;
    legend.className = `legend by-${way}`;
    legend.replaceChildren(
      ...(way === "kl"
        ? [
            ...KL_LEVELS.map((most, level) => item(level, level ? `${KL_LEVELS[level - 1]}–${most}` : `KL < ${most}`)),
            item(-1, "more nats"),
          ]
        : [h("li", h("span.swatch.same"), "the final layer's token")]),
    );
  };
  const first = hasKl ? choice("grid.colour", "agreement") : "agreement";
  show(first);
  const change = (way) => {
    choose("grid.colour", way);
    show(way);
  };
  return h("div.row", hasKl ? chooser("Colour by", ways, first, change) : null, legend);
}

// Highlights the column of position i, and scrolls it into view.
function bringOut(box, table, i) {
  for (const old of table.querySelectorAll(".at")) old.classList.remove("at");
  if (i === null) return;
  for (const row of table.rows) row.cells[i + 1].classList.add("at");
  const { offsetLeft: left, offsetWidth: wide } = table.rows[0].cells[i + 1],
    fixed = table.rows[0].cells[0].offsetWidth;
  if (left < box.scrollLeft + fixed || left + wide > box.scrollLeft + box.clientWidth)
    box.scrollLeft = left - (box.clientWidth + fixed - wide) / 2;
}

// Returns the clicked position in the grid; null for the column of layers.
function positionOf(target) {
  const cell = target.closest("td, thead th");
  return cell?.cellIndex ? cell.cellIndex - 1 : null;
}

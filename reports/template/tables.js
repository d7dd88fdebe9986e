// Sortable tables. A column is {label, title, value(row), show(row), form, text}: rows are sorted by `value`, and cells contain
// `show`, or else the value in its form. `records` returns the records to save, under `name`, of `inAll` rows.

const AT_ONCE = 100; // rows of a table at first

const shortTables = new WeakMap(); // table with fewer rows at first → function that shows more

function table(caption, columns, rows, { page = AT_ONCE, name = caption, records, inAll } = {}) {
  const body = h("tbody"),
    said = h("span.soft", { role: "status" });
  let ordered = rows,
    shown = page;
  const heads = columns.map((column) => {
    const click = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      ordered = sorted(rows, column.value, down);
      fill();
    };
    const term = definitionOf(column.label) ? column.label : null;
    const head = h(
      column.text ? "th.words" : "th",
      { scope: "col" },
      h("button", { type: "button", onclick: click, "data-term": term, title: column.title }, column.label),
    );
    return head;
  });
  const more = h(
    "button.screen",
    {
      type: "button",
      onclick: () => {
        shown += AT_ONCE;
        fill();
      },
    },
    "Show more",
  );
  function fill() {
    body.replaceChildren(
      ...ordered.slice(0, shown).map((row) => {
        const cells = columns.map((column, i) => {
          const tag = i === 0 ? "th.words" : column.text ? "td.words" : "td";
          return h(
            tag,
            i === 0 ? { scope: "row" } : { class: column.look ? column.look(row) : null },
            column.show ? column.show(row) : formed(column.value(row), column.form ?? "text"),
          );
        });
        return h("tr", ...cells);
      }),
    );
    more.hidden = shown >= rows.length;
    said.textContent = `${form(Math.min(shown, rows.length), "count")} of ${form(rows.length, "count")} rows`;
  }
  fill();
  // Shows as many rows as other tables, since paper has no button for more. Returns the function that undoes it.
  const lengthen = () => {
    const before = shown;
    shown = Math.max(shown, AT_ONCE);
    fill();
    return () => {
      shown = before;
      fill();
    };
  };
  const grid = h("table", h("caption", caption), h("thead", h("tr", ...heads)), body);
  const scroll = h("div.scroll", { tabindex: 0, role: "group", "aria-label": caption }, grid);
  const saves = savesOf(name, records ?? (() => exported(columns, ordered)), inAll),
    box = h("div.tabled", scroll, h("div.below", h("span", said, " ", more), saves));
  if (page < Math.min(AT_ONCE, rows.length)) shortTables.set(box, lengthen);
  return box;
}

// Returns the rows sorted by value, ascending or descending. Rows without a value are last in both.
function sorted(rows, value, down) {
  const known = (row) => value(row) !== null && value(row) !== undefined;
  const order = (a, b) => {
    const x = value(a),
      y = value(b);
    return typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
  };
  const there = rows.filter(known).sort((a, b) => (down ? -order(a, b) : order(a, b)));
  return [...there, ...rows.filter((row) => !known(row))];
}

function estimate(row, { key, form: how }) {
  const low = row[`${key}_low`],
    high = row[`${key}_high`];
  return form(row[key], how) + (low === null || low === undefined ? "" : ` [${form(low, how)}, ${form(high, how)}]`);
}

// Returns the name of a configuration, with a link if the sweep has it.
function configurationCell(key, name = key) {
  const known = configurationOf(key);
  return known ? h("span", h("a", { href: everywhere(key) }, name), known.mark) : form(key, "text");
}

// Returns a chart's numbers as a table: estimates with intervals, in the payload's columns.
function twin(caption, { columns, rows }, how) {
  return table(
    caption,
    columns.map(({ key, label, form: written }) => ({
      label,
      key,
      text: written === "text",
      look: ["held_out"].includes(key) ? () => "words prose" : null,
      value: (row) => row[key],
      show: (row) => (key === "configuration" ? configurationCell(row[key]) : estimate(row, { key, form: written })),
    })),
    rows,
    how,
  );
}

// Returns the rows of a table as records: each column's value, with interval and n where the rows have them.
function exported(columns, rows) {
  return rows.map((row) =>
    Object.fromEntries(
      columns.flatMap(({ label, key, value }) => [
        [key ?? label, plain(value(row))],
        ...(key
          ? ["_low", "_high", "_n"]
              .filter((end) => `${key}${end}` in row)
              .map((end) => [`${key}${end}`, row[`${key}${end}`]])
          : []),
      ]),
    ),
  );
}

const plain = (value) => (value === undefined ? null : value);

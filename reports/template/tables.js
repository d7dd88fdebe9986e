// Sortable tables. A column is {label, value(row), show(row), text}: rows are sorted by `value`, and cells contain
// `show`.

function table(caption, columns, rows) {
  const body = h("tbody");
  const heads = columns.map((column) => {
    const click = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      fill(sorted(rows, column.value, down));
    };
    const head = h(
      column.text ? "th.words" : "th",
      { scope: "col" },
      h("button", { type: "button", onclick: click }, column.label),
    );
    return head;
  });
  function fill(ordered) {
    body.replaceChildren(
      ...ordered.map((row) => {
        const cells = columns.map((column, i) => {
          const tag = i === 0 ? "th.words" : column.text ? "td.words" : "td";
          return h(
            tag,
            i === 0 ? { scope: "row" } : { class: column.look ? column.look(row) : null },
            column.show(row),
          );
        });
        return h("tr", {}, ...cells);
      }),
    );
  }
  fill(rows);
  const grid = h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, ...heads)), body);
  return h("div.scroll", { tabindex: 0, role: "group", "aria-label": caption }, grid);
}

// The rows sorted by value, ascending or descending. Rows without a value are last in both.
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

// The name of a configuration, with a link to it if the sweep has it.
function configurationCell(key) {
  const known = DATA.configurations.find((configuration) => configuration.key === key);
  return known ? h("span", {}, h("a", { href: everywhere(key) }, key), known.mark) : key;
}

// A chart's numbers as a table: estimates with their intervals, in the columns that overview.py lists.
function twin(caption, { columns, rows }) {
  return table(
    caption,
    columns.map(({ key, label, form: how }) => ({
      label,
      text: how === "text",
      value: (row) => row[key],
      show: (row) => (key === "configuration" ? configurationCell(row[key]) : estimate(row, { key, form: how })),
    })),
    rows,
  );
}

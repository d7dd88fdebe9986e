// The page of a comparison of models: what differs besides them, charts, tables, and links to each model's report.

function comparisonPage({ notes, charts, tables, reports }) {
  DATA.terms = new Map(); // the definitions are of a sweep's page
  return [
    h("h1", DATA.title),
    notes.length
      ? h(
          "section",
          { "aria-label": "What differs besides the models, and what is unknown" },
          h("p.soft", "What differs besides the models, and what is unknown:"),
          listed(notes),
        )
      : null,
    h("div.figures", ...charts.map((chart) => figure(chart))),
    ...tables.map((each) => comparedTable(each, reports)),
  ].filter(Boolean);
}

// Returns a table of texts. The names of models are links to their reports, where these are known.
function comparedTable({ title, caption, heads, rows }, reports) {
  const name = (row) => (reports[row[0]] ? h("a", { href: reports[row[0]] }, row[0]) : row[0]);
  const columns = heads.map((label, i) => ({
    label,
    text: i === 0 || rows.some((row) => /[a-z]/.test(row[i])),
    value: (row) => row[i],
    show: i === 0 ? name : (row) => row[i],
  }));
  return h("section", { "aria-label": title }, h("h2", title), table(caption || title, columns, rows, { name: title }));
}

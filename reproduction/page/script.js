"use strict";
// Sortable tables: a click on a column's head sorts by it, a second click turns the order round.
function key(row, column) {
  const cell = row.cells[column];
  const text = (cell.dataset.sort || cell.textContent).trim();
  const number = text === "" || text === "-" ? NaN : parseFloat(text);
  return { text, number };
}

function order(a, b) {
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return a.number - b.number;
  if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
  return a.text.localeCompare(b.text, undefined, { numeric: true });
}

function sort(table, column) {
  const heads = table.tHead.rows[0].cells;
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = Array.from(table.tBodies[0].rows, (row) => ({ row, key: key(row, column) }));
  rows.sort((a, b) => (up ? order(a.key, b.key) : order(b.key, a.key)));
  table.tBodies[0].append(...rows.map((item) => item.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(table, column));
  });
}

// Colours: as the system says, or light, or dark.
const themes = ["auto", "light", "dark"];
const button = document.querySelector("button.theme");
button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
  document.documentElement.dataset.theme = next;
  button.textContent = `colours: ${next}`;
});

// Paper has no folds.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => (fold.open = true)));

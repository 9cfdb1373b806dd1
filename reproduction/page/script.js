"use strict";
// Sortable tables: a click on a column's head sorts by it, a second click turns the order round.
// A table with several bodies (a claim and the rows it was tested on) sorts them whole, by their first row.
function key(part, column) {
  const text = (part.rows ? part.rows[0] : part).cells[column].textContent.trim();
  const [, digits, unit] = text.match(/^([+-]?\d*\.?\d+)\s*([KM]\b)?/) || [];
  return { text, number: parseFloat(digits) * ({ K: 1e3, M: 1e6 }[unit] || 1) };
}

// What has no number stands last either way.
function order(a, b, up) {
  if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
  const numbers = !Number.isNaN(a.number);
  const way = numbers ? a.number - b.number : a.text.localeCompare(b.text, undefined, { numeric: true });
  return up ? way : -way;
}

function sort(table, column) {
  const heads = table.tHead.rows[0].cells;
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  const whole = table.tBodies.length > 1;
  const parts = Array.from(whole ? table.tBodies : table.tBodies[0].rows, (part) => ({ part, key: key(part, column) }));
  parts.sort((a, b) => order(a.key, b.key, up));
  (whole ? table : table.tBodies[0]).append(...parts.map((item) => item.part));
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

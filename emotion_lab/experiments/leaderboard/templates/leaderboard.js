"use strict";
// Sort and filter the table; without this script the table is complete but static.
const table = document.getElementById("board");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const heads = Array.from(table.tHead.rows[0].cells);

function value(row, column) {
  const text = row.cells[column].dataset.v;
  if (text === undefined || text === "") return null;
  const number = Number(text);
  return Number.isFinite(number) ? number : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}

function sort(column, down) {
  const keyed = rows.map((row, rank) => [value(row, column), rank, row]);
  keyed.sort(function (one, two) {
    // Missing values come last in both directions.
    if (one[0] === null || two[0] === null) {
      return (one[0] === null) - (two[0] === null) || one[1] - two[1];
    }
    return (down ? -1 : 1) * compare(one[0], two[0]) || one[1] - two[1];
  });
  body.append(...keyed.map((entry) => entry[2]));
  heads.forEach(function (head, i) {
    if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

heads.forEach(function (head, column) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", function () {
    const now = head.getAttribute("aria-sort");
    const down = now ? now === "ascending" : head.dataset.first === "down";
    sort(column, down);
  });
});

const field = document.getElementById("filter");
const count = document.getElementById("count");
// The filter uses the full name, also if the displayed one is shortened.
const texts = rows.map((row) =>
  (row.textContent + " " + row.cells[1].dataset.v).toLowerCase().replace(/\s+/g, " "));

function filter() {
  const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let visible = 0;
  rows.forEach(function (row, i) {
    row.hidden = !wanted.every((word) => texts[i].includes(word));
    if (!row.hidden) visible += 1;
  });
  count.textContent = visible + " of " + rows.length + " shown";
}

field.addEventListener("input", filter);
document.getElementById("tools").hidden = false;
filter();

/* Sorts and filters tables. Everything is readable without it. */
"use strict";
const UNITS = { ns: 1, us: 1e3, ms: 1e6, s: 1e9, "bit/s": 1, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9, "%": 1, "/s": 1 };
/* A figure with its unit as a number; null for words. */
function number(text) {
  const found = /^([+-]?[0-9]+(?:\.[0-9]+)?)(?: ([^ ]+))?/.exec(text);
  if (!found) return null;
  const unit = found[2] ?? "";
  return Number(found[1]) * (UNITS[unit] ?? 1);
}
function sort(table, column, button) {
  const head = button.parentElement;
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => {
    const text = row.cells[column].textContent;
    return { row, text, value: number(text) };
  });
  /* Words come after figures either way: a dash is not a small number. */
  rows.sort((a, b) => {
    if ((a.value === null) !== (b.value === null)) return a.value === null ? 1 : -1;
    const order = a.value === null ? a.text.localeCompare(b.text) : a.value - b.value;
    return ascending ? order : -order;
  });
  body.append(...rows.map(({ row }) => row));
}
function prepare(region) {
  const table = region.querySelector("table");
  if (table.tBodies[0].rows.length < 6) return;
  Array.from(table.tHead.rows[0].cells).forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent || "percentile";
    button.addEventListener("click", () => sort(table, column, button));
    cell.replaceChildren(button);
  });
  if (table.tBodies[0].rows.length < 12) return;
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  input.type = "search";
  label.className = "filter";
  label.append("Show rows with ", input, " ", count);
  region.before(label);
  const rows = Array.from(table.tBodies[0].rows, (row) => ({ row, text: row.textContent.toLowerCase() }));
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}
document.querySelectorAll(".scroll").forEach(prepare);
/* On paper nothing is folded; afterwards it is as it was. */
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((details) => {
  details.open = true;
  addEventListener("afterprint", () => { details.open = false; }, { once: true });
}));

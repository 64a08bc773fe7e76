"use strict";
// a click on a heading sorts by it: numbers from the greatest, names from the first
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const rows = [...body.rows];
      const numeric = rows.every((row) => key(row) !== "" && !isNaN(key(row)));
      const first = numeric && column > 0 ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((a, b) => sign * (numeric
        ? key(a) - key(b)
        : key(a).localeCompare(key(b), undefined, { numeric: true })));
      body.append(...rows);
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
    });
  });
}

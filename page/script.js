// Small things that need no server.

// The slider fades the heat maps.
document.addEventListener("input", (event) => {
  if (event.target.matches(".strength input")) {
    document.documentElement.style.setProperty("--heat", event.target.value / 100);
  }
});

// A heading of the table sorts by its column; pressed again, the other way round.
document.addEventListener("click", (event) => {
  const heading = event.target.closest(".answers th");
  if (!heading) return;
  const order = heading.ariaSort === "ascending" ? "descending" : "ascending";
  for (const other of heading.parentElement.cells) if (other.ariaSort) other.ariaSort = "none";
  heading.ariaSort = order;
  const body = heading.closest("table").tBodies[0];
  const value = (row) => row.cells[Math.min(heading.cellIndex, row.cells.length - 1)].dataset.value;
  const rows = [...body.rows].sort((a, b) => value(a).localeCompare(value(b), undefined, { numeric: true }));
  body.append(...(order === "ascending" ? rows : rows.reverse()));
});

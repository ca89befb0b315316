// Sorting, filtering and renewal of the desk's pages. The two limits come with the page.
const {everyMs, timeoutMs} = document.currentScript.dataset;
let order = null;
const value = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v === "" ? null : Number(cell.dataset.v);
};
function arrange() {
  const table = document.getElementById("desk");
  if (!table) return;
  const body = table.tBodies[0];
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  if (order) {
    const {column, up} = order;
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = [...body.rows].map(row => [value(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);  // what has no value stays below
      return (up ? 1 : -1) * (typeof a === "number" ? a - b : a.localeCompare(b));
    });
    body.append(...keyed.map(([, row]) => row));
  }
  const wanted = document.getElementById("filter").value.trim().toLowerCase();
  const unhealthy = document.getElementById("unhealthy").checked;
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = !(row.textContent.toLowerCase().includes(wanted) && (!unhealthy || row.dataset.unhealthy === "1"));
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${body.rows.length} shown`;
}
addEventListener("click", event => {
  const head = event.target.closest("th[data-sort]");
  if (!head) return;
  const column = head.cellIndex;
  order = {column, up: order && order.column === column ? !order.up : head.dataset.sort === "up"};
  arrange();
});
addEventListener("input", arrange);
addEventListener("DOMContentLoaded", arrange);
async function renew() {
  if (document.hidden) return;
  try {
    const signal = AbortSignal.timeout(Number(timeoutMs));
    const answer = await fetch(location.href, {cache: "no-store", headers: {Accept: "text/html"}, signal});
    if (!answer.ok) throw answer.status;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of fresh.querySelectorAll("[data-live]")) document.getElementById(part.id)?.replaceWith(part);
    document.body.classList.remove("late");
    arrange();
  } catch (why) {
    document.body.classList.add("late");
  }
}
setInterval(renew, Number(everyMs));
addEventListener("visibilitychange", renew);

// Sorting, filtering and renewal of the desk's pages. The two limits come with the page.
const {everyMs, timeoutMs} = document.currentScript.dataset;
const collator = new Intl.Collator("en", {numeric: true});
let order = null;
const value = (row, column) => {
  const cell = row.cells[column], given = cell.dataset.v;
  if (given !== undefined) return given === "" ? null : Number(given);
  if (!cell.classList.contains("n")) return cell.textContent;
  const number = parseFloat(cell.textContent.replaceAll(",", ""));
  return Number.isNaN(number) ? null : number;
};
function sort(body, {column, up}) {
  const rows = [...body.rows];
  const sorted = rows.map(row => [value(row, column), row]).sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);  // what has no value stays below
    return (up ? 1 : -1) * (typeof a === "number" ? a - b : collator.compare(a, b));
  }).map(([, row]) => row);
  if (sorted.some((row, index) => row !== rows[index])) body.replaceChildren(...sorted);
}
function arrange() {
  const table = document.getElementById("desk");
  if (!table) return;
  const body = table.tBodies[0];
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  if (order) {
    table.tHead.rows[0].cells[order.column].setAttribute("aria-sort", order.up ? "ascending" : "descending");
    sort(body, order);
  }
  const wanted = document.getElementById("filter").value.trim().toLowerCase();
  const unhealthy = document.getElementById("unhealthy").checked;
  let shown = 0;
  for (const row of body.rows) {
    const hide = (unhealthy && row.dataset.unhealthy === undefined) || (wanted && !row.textContent.toLowerCase().includes(wanted));
    if (row.hidden !== Boolean(hide)) row.hidden = hide;
    shown += !hide;
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

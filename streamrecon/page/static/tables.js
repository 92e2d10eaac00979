// Tables and lists. Text from the session goes in as text, never as markup.
import { clock, count, element, fixed, known, several } from "./format.js";

function fill(id, rows) {
  const table = document.getElementById(id);
  table.tBodies[0].replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  }));
  table.closest(".panel").classList.toggle("has-data", rows.length > 0);
}

const text = (value) => element("td", value);
const number = (value) => element("td", value, "number");

function timed(unix) {
  const cell = document.createElement("td");
  const time = element("time", clock(unix));
  time.dateTime = new Date(unix * 1000).toISOString();
  cell.append(time);
  return cell;
}

function reasoned(headline, reason) {
  const cell = document.createElement("td");
  cell.append(element("b", headline), " ", element("span", reason));
  return cell;
}

export function showLog({ events }) {
  fill("log", events.toReversed().map((event) => [timed(event.at), reasoned(event.kind.replaceAll("_", " "), event.text)]));
}

export function showQuarantine(ledger) {
  const orphans = ledger.orphans.map((o) => [timed(o.since), text(o.name), reasoned("orphan", o.reason)]);
  const entries = ledger.quarantine.map((e) => [timed(e.at), text(e.identity || e.path), reasoned(e.kind.replaceAll("_", " "), e.reason)]);
  fill("quarantine", [...entries, ...orphans]);
  const more = ledger.quarantine_open + ledger.orphans_total - entries.length - orphans.length;
  document.getElementById("quarantine-about").textContent =
    `${count(ledger.quarantine_open)} open, ${several(ledger.orphans_total, "orphan")}${more > 0 ? `; ${count(more)} more: streamrecon quarantine` : ""}`;
}

export function showOptics(groups) {
  fill("optics", (groups ?? []).map((g) => [
    text(g.name), number(count(g.particles)), number(fixed(g.mean_log_evidence)), number(fixed(g.mean_effective_sample_size)),
    number(fixed(g.amplitude_scale, 2)), number(known(g.inlier_share) ? `${fixed(100 * g.inlier_share, 0)} %` : "–"),
  ]));
}

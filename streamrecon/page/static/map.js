// The 3D view (in a frame of its own that the maps are handed to) and the pictures of the same map.
import { angstrom, count } from "./format.js";
import { color } from "./charts.js";

const PACE_MILLISECONDS = 2000;
const AGAIN_MILLISECONDS = 3000;
const frame = document.getElementById("viewer");
const empty = document.getElementById("viewer-empty");
const level = document.getElementById("level");
const known = { maps: {}, shown: "", sent: "", busy: false, alive: false, ready: false, last: 0, timer: 0, again: 0, retry: 0 };

const which = () => document.querySelector("input[name=which]:checked").value;
const tell = (message, transfer = []) => frame.contentWindow?.postMessage(message, "*", transfer);
const number = (hex) => parseInt(hex.slice(1), 16);
const look = () => ({ background: number(color("--scene")), color: number(color("--surface")), level: Number(level.value) });

export function showMaps({ maps, classes }) {
  known.maps = maps;
  document.getElementById("class-label").hidden = classes < 2;
  if (!frame.src && maps.full) {
    empty.textContent = "Loading the 3D view.";
    load();
  }
  refresh();
}

// the connection is lost: whoever answers next may be another process, which has no map until it says so
export function forgetMaps() {
  known.maps = {};
}

export function goOn() {
  if (frame.src && !known.ready) load();
}

function load() {
  known.alive = false;
  frame.src = "/viewer";
}

// what the frame needs may not have come, as the server waits for a busy page only so long; then nothing in it speaks
frame.addEventListener("load", () => {
  clearTimeout(known.again);
  known.again = setTimeout(() => { if (!known.alive) goOn(); }, AGAIN_MILLISECONDS);
});

export function changeTheme() {
  if (known.ready) tell({ type: "look", ...look() });
}

export function refresh() {
  const map = known.maps[which()];
  if (!map) return;
  document.getElementById("map-about").textContent =
    `${map.shape[0]}³ at ${map.voxel_size_angstrom.toFixed(2)} Å, ${count(map.particles_seen)} particles`;
  showPictures(map);
  sendMap(map);
}

// a busy page did not answer in time, and this map may be the last
function tryAgain() {
  clearTimeout(known.retry);
  known.retry = setTimeout(refresh, AGAIN_MILLISECONDS);
}

function showPictures(map) {
  const key = `${which()}/${map.version}`;
  if (known.shown === key || document.hidden) return;
  known.shown = key;
  const words = `of ${which() === "full" ? "the map" : `half ${which().slice(-1)}`} at ${angstrom(map.resolution_angstrom)}`;
  const side = map.shown_side;
  for (const [kind, text] of [["slices", "Central slices"], ["projections", "Projections"]]) {
    const picture = document.getElementById(kind);
    picture.width = 3 * side + 8;
    picture.height = side;
    picture.src = `/map/${which()}/${kind}.png?v=${encodeURIComponent(map.version)}`;
    picture.alt = `${text} along z, y and x ${words}`;
    picture.hidden = false;
    picture.onerror = () => { known.shown = ""; tryAgain(); };
  }
  document.querySelector(".panel.tiles").classList.add("has-data");
}

async function sendMap(map) {
  const key = `${which()}/${map.version}`;
  if (!known.ready || known.busy || known.sent === key || document.hidden) return;
  const wait = known.last + PACE_MILLISECONDS - performance.now();
  if (wait > 0 && known.sent.startsWith(`${which()}/`)) {
    clearTimeout(known.timer);
    known.timer = setTimeout(refresh, wait);
    return;
  }
  known.busy = true;
  try {
    const answer = await fetch(`/map/${which()}.mrc?v=${encodeURIComponent(map.version)}`);
    if (!answer.ok) throw new Error(`${answer.status}`);
    const bytes = await answer.arrayBuffer();
    known.sent = key;
    known.last = performance.now();
    tell({ type: "map", key, bytes, ...look() }, [bytes]);
  } catch {
    known.busy = false;
    tryAgain();
  }
}

addEventListener("message", (event) => {
  if (event.source !== frame.contentWindow) return;
  const { type, reason } = event.data;
  known.alive = true;
  // a view that was loaded anew has no map, and does not answer for what the one before it was sent
  if (type === "ready") Object.assign(known, { ready: true, busy: false, sent: "" });
  if (type === "shown") {
    known.busy = false;
    empty.hidden = true;
    frame.dataset.shown = event.data.key;
  }
  if (type === "failed") {
    known.busy = false;
    empty.hidden = false;
    empty.textContent = reason;
  }
  refresh();
});

level.addEventListener("input", () => {
  document.getElementById("level-value").textContent = `${Number(level.value).toFixed(1)} σ`;
  tell({ type: "level", level: Number(level.value) });
});
document.getElementById("which").addEventListener("change", refresh);
document.getElementById("reset").addEventListener("click", () => tell({ type: "reset" }));
document.addEventListener("visibilitychange", refresh);

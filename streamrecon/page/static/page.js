// The page: one stream of sections from the daemon, each shown by its own part.
import { redrawAll } from "./charts.js";
import { addToHistory, showAssessment, showFsc, showHistory } from "./curves.js";
import { angstrom, clock, count, duration, fixed, known, several } from "./format.js";
import { changeTheme, forgetMaps, goOn, showMaps } from "./map.js";
import { showLog, showOptics, showQuarantine } from "./tables.js";

const SILENT_MILLISECONDS = 12000;
const AGAIN_MILLISECONDS = 2000;
const HIDDEN_MILLISECONDS = 60000;
const set = (id, text) => {
  const node = document.getElementById(id);
  if (node.textContent !== text) node.textContent = text;
};
const page = { source: null, heard: 0, since: 0, state: null, status: {}, masked: null, name: "session", lost: false, hiding: 0 };

const shows = {
  session(message) {
    page.name = message.name;
    set("session-name", message.name);
    if (message.software_version) set("session-about", `streamrecon ${message.software_version}`);
  },
  state(message) {
    page.state = message;
    showState();
  },
  status(message) {
    page.status = message;
    set("n-folded", count(message.particles_seen));
    set("n-folded-sub", known(message.k_max) ? `band of ${message.k_max} shells` : "folded");
    set("n-rate", fixed(message.images_per_second, 0));
    set("n-rate-sub", known(message.step_seconds) ? `${duration(message.step_seconds)} a batch` : "now");
    set("n-resolution", angstrom(message.resolution_angstrom));
    showHonesty();
    addToHistory(message);
    showTitle();
  },
  symmetry(message) {
    set("symmetry", message.text);
    const shown = document.getElementById("symmetry");
    shown.title = message.reason;
    shown.classList.toggle("warned", message.alert);
  },
  history: showHistory,
  fsc: showFsc,
  assessment(message) {
    page.masked = message.resolution_masked_angstrom;
    showHonesty();
    showAssessment(message);
    showOptics(message.optics_groups);
    showAngular(message);
  },
  ledger(message) {
    const { ready = 0, queued = 0, folded = 0 } = message.particles;
    set("n-in", count(ready + queued + folded));
    set("n-in-sub", `${count(ready + queued)} wait`);
    set("n-lag", duration(message.lag_seconds));
    set("n-quarantine", count(message.quarantine_open));
    set("n-quarantine-sub", `${several(message.orphans_total, "orphan")}`);
    document.getElementById("n-quarantine").parentElement.classList.toggle("alert", message.quarantine_open > 0);
    showQuarantine(message);
  },
  log: showLog,
  maps(message) {
    showMaps(message);
    document.getElementById("downloads").closest(".panel").classList.toggle("has-data", Boolean(message.maps.full));
  },
  tick() {},
};

function showHonesty() {
  const independent = page.status.fsc_kind === "gold_standard";
  const kind = independent ? "independent halves" : "common map: optimistic";
  const brief = `masked ${angstrom(page.masked)}, ${independent ? "independent" : "optimistic"}`;
  set("n-resolution-sub", known(page.masked) ? brief : kind);
}

function showAngular(message) {
  const picture = document.getElementById("angular");
  picture.closest(".panel").classList.toggle("has-data", message.angular_shown);
  if (!message.angular_shown) return;
  const tilt = known(message.tilt_suggestion_degrees) && message.tilt_suggestion_degrees > 0
    ? `, tilt by ${fixed(message.tilt_suggestion_degrees, 0)}° would help` : "";
  const words = `efficiency ${fixed(message.angular_efficiency, 2)}${tilt}`;
  const cones = known(message.conical_fsc_area_ratio) ? `; conical FSC area ratio ${fixed(message.conical_fsc_area_ratio, 2)}` : "";
  set("angular-about", words);
  picture.title = `${words}${cones}`;
  picture.alt = `Heat map of viewing directions (Mollweide projection): ${words}${cones}`;
  if (!document.hidden) picture.src = `/angular.png?v=${message.session_id}-${message.sequence}`;
  picture.hidden = false;
}

function showState() {
  const ended = ["finished", "stopped"].includes(page.state?.kind);
  let shown = page.state ?? { kind: "connecting", title: "Connecting", text: "Asking the daemon." };
  if (page.lost && ended) {
    shown = { ...shown, text: `${shown.text} The daemon has ended; this is where it stood.` };
  } else if (page.lost) {
    const text = `Nothing has come since ${clock(page.heard / 1000)}; trying again. What is below is the last that was heard.`;
    shown = { kind: "lost", title: "Connection lost", text };
  }
  document.getElementById("state").dataset.kind = shown.kind;
  set("state-title", shown.title);
  set("state-text", shown.text);
  showTitle();
}

function showTitle() {
  const resolution = known(page.status.resolution_angstrom) ? `${angstrom(page.status.resolution_angstrom)} ` : "";
  const kind = page.lost ? "connection lost" : page.state?.kind ?? "connecting";
  document.title = `${resolution}${kind} – ${page.name}`;
}

function setLost(lost) {
  if (lost === page.lost) return;
  page.lost = lost;
  if (lost) forgetMaps();
  else goOn();
  showState();
}

function connect() {
  page.source?.close();
  const source = new EventSource("/events");
  page.source = source;
  for (const [name, show] of Object.entries(shows)) {
    source.addEventListener(name, (event) => {
      page.heard = Date.now();
      setLost(false);
      show(JSON.parse(event.data));
    });
  }
  source.addEventListener("error", () => {
    if (page.source !== source) return;
    page.heard ||= Date.now();
    setLost(true);
    // the browser tries again by itself unless the answer was an error
    if (source.readyState === EventSource.CLOSED) setTimeout(() => page.source === source && connect(), AGAIN_MILLISECONDS);
  });
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* storage may be off */ }
  redrawAll();
  changeTheme();
});
// a browser opens only so many connections to one server: a page that nobody sees gives its own back
document.addEventListener("visibilitychange", () => {
  clearTimeout(page.hiding);
  if (document.hidden) {
    page.hiding = setTimeout(() => { page.source?.close(); page.source = null; }, HIDDEN_MILLISECONDS);
  } else if (!page.source) {
    connect();
  }
});
setInterval(() => {
  if (!page.source || !page.heard) return;
  const silent = Date.now() - page.heard;
  set("heard", `heard ${duration(Math.floor(silent / 1000))} ago`);
  if (silent > SILENT_MILLISECONDS) setLost(true);
}, 1000);
connect();

// The page's six charts: what each is made of, and how messages become its data.
import { Chart } from "./charts.js";
import { angstrom, count, duration, fixed, known, short } from "./format.js";

const about = (id, text) => { document.getElementById(`${id}-about`).textContent = text; };
const reciprocal = (_, splits) => splits.map((f) => (f > 0 ? fixed(1 / f, f > 0.1 ? 1 : 0) : ""));
const reciprocalSquared = (_, splits) => splits.map((s) => (s > 0 ? fixed(1 / Math.sqrt(s), s > 0.01 ? 1 : 0) : ""));
const compact = (_, splits) => splits.map((n) => (n === null ? "" : short(n)));
const widened = (low, high, bins) => [low - (high - low) / (2 * bins - 2 || 1), high + (high - low) / (2 * bins - 2 || 1)];
const linear = { x: { time: false } };

const fsc = new Chart("fsc", (key) => ({
  series: JSON.parse(key || "[]").map((label) => ({ label, dash: label === "randomised" ? [5, 4] : undefined })),
  x: { label: "Å", values: reciprocal },
  y: {},
  scales: { ...linear, y: { range: [-0.1, 1.05] } },
  lines: [{ at: 0.5, label: "0.5" }, { at: 0.143, label: "0.143" }],
  legend: true,
}));
let halves = null;
let assessed = null;

export function showFsc(message) {
  halves = message;
  drawFsc();
}

function drawFsc() {
  if (!halves) return;
  const side = halves.box_size * halves.voxel_size_angstrom;
  const frequency = halves.fsc.map((_, shell) => shell / side);
  const curves = [["half-sets", halves.fsc]];
  if (assessed && assessed.box_size === halves.box_size) {
    curves.push(["masked", assessed.fsc_masked], ["corrected", assessed.fsc_corrected], ["randomised", assessed.fsc_randomised]);
  }
  const shown = curves.filter(([, curve]) => curve?.length);
  const data = [frequency, ...shown.map(([, curve]) => frequency.map((_, i) => curve[i] ?? null))];
  const kind = halves.fsc_kind === "gold_standard" ? "independent halves" : "common map: optimistic";
  about("fsc", `${angstrom(halves.resolution_angstrom)}, ${kind}`);
  fsc.set(data, `Fourier shell correlation of the half-sets: 0.143 at ${angstrom(halves.resolution_angstrom)}, ${kind}`, JSON.stringify(shown.map(([label]) => label)));
}

const resolution = new Chart("resolution", (key) => ({
  series: [
    { label: "measured" },
    { label: key || "fit and forecast", dash: [6, 4], points: { show: true, size: 7 } },
  ],
  x: { label: "particles", values: compact },
  y: { label: "Å", values: reciprocalSquared },
  scales: { x: { time: false, distr: 3 } },
}));
const ess = new Chart("ess", () => ({ series: [{ label: "poses" }], x: { label: "particles", values: compact }, y: {}, scales: linear }));
const evidence = new Chart("evidence", () => ({ series: [{ label: "nats", color: "--three" }], x: { label: "particles", values: compact }, y: { size: 54 }, scales: linear }));
let history = { columns: [], rows: [] };

export function showHistory(message) {
  history = message;
  drawHistory();
}

// by the rule of the daemon's own history, which sends all of it anew when it thins it out
export function addToHistory(status) {
  if (!history.columns.length) return;
  const { rows } = history;
  const row = history.columns.map((column) => status[column] ?? null);
  if (rows.length && rows.at(-1)[0] === row[0]) {
    rows[rows.length - 1] = row;
  } else {
    if (!history.last_stays) rows.pop();
    rows.push(row);
    history.last_stays = history.count % history.stride === 0;
    history.count += 1;
  }
  drawHistory();
}

function drawHistory() {
  const index = (name) => history.columns.indexOf(name);
  const rows = history.rows.filter((row) => row[0] > 0);
  if (!rows.length) return;
  const particles = rows.map((row) => row[0]);
  const column = (name) => rows.map((row) => row[index(name)]);
  const last = (values) => values.findLast(known);
  const size = column("effective_sample_size");
  const nats = column("log_evidence");
  about("ess", `${fixed(last(size))} poses an image`);
  about("evidence", `${fixed(last(nats))} nats an image`);
  ess.set([particles, size], `Effective sample size against particles, now ${fixed(last(size))}`);
  evidence.set([particles, nats], `Log-evidence of an image against particles, now ${fixed(last(nats))} nats`);
  drawResolution(rows.map((row) => [row[0], row[index("resolution_angstrom")]]));
}

function drawResolution(own) {
  const measured = (assessed?.resolution_history?.length > own.length / 4 ? assessed.resolution_history : own)
    .filter(([n, d]) => n > 0 && known(d) && d > 0);
  if (!measured.length) return;
  const [seen, reached] = measured.at(-1);
  const ahead = (assessed?.forecast ?? []).filter((f) => f.particles > seen && f.particles < 300 * seen);
  const fit = assessed?.fit && ahead.length ? [[seen, reached], ...ahead.map((f) => [f.particles, f.resolution_angstrom])] : [];
  const points = new Map();
  for (const [n, d] of measured) points.set(n, [1 / d ** 2, null]);
  for (const [n, d] of fit) points.set(n, [points.get(n)?.[0] ?? null, 1 / d ** 2]);
  const x = [...points.keys()].sort((a, b) => a - b);
  const next = ahead[0];
  const now = `${angstrom(reached)} at ${count(seen)}`;
  const soon = next && known(next.hours) ? ` in ${duration(3600 * next.hours)}` : "";
  about("resolution", next ? `${angstrom(next.resolution_angstrom)} at ${short(next.particles)}${soon}` : now);
  const words = next ? `${angstrom(next.resolution_angstrom)} at ${short(next.particles)} particles (${short(next.particles_low)} to ${short(next.particles_high)})${soon}` : "none yet";
  resolution.set([x, x.map((n) => points.get(n)[0]), x.map((n) => points.get(n)[1])], `Resolution against particles: ${now} particles. Forecast: ${words}`, assessed?.fit ? `fit (B ${fixed(assessed.fit.b_factor_angstrom2, 0)} Å²) and forecast` : "");
}

const noise = new Chart("noise", (key) => ({
  series: JSON.parse(key || "[]").map((label) => ({ label, width: 1.5 })),
  x: { label: "Å", values: reciprocal },
  y: { values: (_, splits) => splits.map((v) => (v === null ? "" : v < 10 ? String(v) : short(v))) },
  scales: { ...linear, y: { distr: 3 } },
}));
const defocus = new Chart("defocus", () => ({ series: [{ label: "particles", bars: true, width: 1 }], x: { label: "µm", values: (_, s) => s.map((v) => fixed(v, 1)) }, y: { values: compact }, scales: { x: { time: false, range: (_, low, high) => widened(low, high, defocus.data[0].length) }, y: { range: (_, low, high) => [0, high * 1.05 || 1] } } }));
const MOST_GROUPS = 8;

export function showAssessment(message) {
  assessed = message;
  drawFsc();
  drawHistory();
  const spectra = (message.noise_variance ?? []).slice(0, MOST_GROUPS);
  if (spectra.length && message.box_size) {
    const side = message.box_size * message.voxel_size_angstrom;
    const names = spectra.map((_, i) => message.optics_groups?.[i]?.name ?? `group ${i + 1}`);
    const shells = spectra[0].map((_, shell) => shell).slice(1);
    const of = (spectrum) => shells.map((shell) => (spectrum[shell] > 0 ? spectrum[shell] : null));
    about("noise", `variance by shell, ${spectra.length} ${spectra.length === 1 ? "group" : "groups"}`);
    noise.set([shells.map((shell) => shell / side), ...spectra.map(of)], `Noise variance by shell of ${names.join(", ")}`, JSON.stringify(names));
  }
  const edges = message.defocus_edges_angstrom ?? [];
  if (edges.length > 1) {
    // the bins that hold something, and one on each side
    const counts = message.defocus_counts;
    const first = Math.max(0, counts.findIndex((n) => n > 0) - 1);
    const last = Math.min(counts.length, counts.findLastIndex((n) => n > 0) + 2);
    const centres = counts.slice(first, last).map((_, i) => (edges[first + i] + edges[first + i + 1]) / 2e4);
    const range = [edges[first], edges[last]].map((edge) => fixed(edge / 1e4, 1)).join(" to ");
    about("defocus", `${range} µm`);
    if (last > first) defocus.set([centres, counts.slice(first, last)], `Histogram of defocus from ${range} micrometre`);
  }
}

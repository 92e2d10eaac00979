// Numbers and times as people read them; what is not known is a dash.
const grouped = new Intl.NumberFormat("en");

export const known = (value) => typeof value === "number" && Number.isFinite(value);
export const count = (value) => (known(value) ? grouped.format(Math.round(value)) : "–");
export const fixed = (value, digits = 1) => (known(value) ? value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1") : "–");
export const angstrom = (value) => (known(value) ? `${value.toFixed(value < 100 ? 1 : 0)} Å` : "–");
export const several = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;
export const short = (value) => {
  if (!known(value)) return "–";
  if (value >= 1e6) return `${(value / 1e6).toPrecision(2)} M`;
  return value >= 1e4 ? `${Math.round(value / 1e3)} k` : grouped.format(Math.round(value));
};

export function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString("en-GB");
}

export function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A chart over uPlot that follows theme and size, and draws only what somebody can see.
/* global uPlot */

const colors = ["--one", "--two", "--three", "--four"];
const ONE_LINE = 24;
const TWO_LINES = 42;
const all = [];

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function redrawAll() {
  for (const chart of all) chart.rebuild();
}

export class Chart {
  // build(): { series: [{label, dash, points, bars, value}], x, y, scales, lines: [{at, label}], legend }
  constructor(id, build) {
    this.element = document.getElementById(id);
    this.panel = this.element.closest(".panel");
    this.build = build;
    this.key = null;
    this.data = null;
    this.plot = null;
    this.legend = 0;
    this.due = false;
    all.push(this);
    new ResizeObserver(() => this.resize()).observe(this.element);
  }

  // key: what the chart's shape depends on; a new one builds it anew
  set(data, label, key = "") {
    this.data = data;
    this.element.setAttribute("aria-label", label);
    if (key !== this.key) {
      this.key = key;
      this.drop();
    }
    this.ask();
  }

  ask() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
    });
  }

  draw() {
    if (!this.data) return;
    this.panel.classList.add("has-data");
    if (this.plot) this.plot.setData(this.data);
    else this.plot = new uPlot(this.options(this.build(this.key)), this.data, this.element);
  }

  rebuild() {
    this.drop();
    if (this.data) this.ask();
  }

  drop() {
    this.plot?.destroy();
    this.plot = null;
  }

  size(legend) {
    const { clientWidth: width, clientHeight: height } = this.element;
    return { width: Math.max(width, 50), height: Math.max(height - legend, 50) };
  }

  resize() {
    if (this.plot) this.plot.setSize(this.size(this.legend));
  }

  options({ series, x, y, scales, lines = [], legend = series.length > 1 }) {
    const text = color("--quiet");
    const grid = { stroke: color("--grid"), width: 1 };
    const axis = (more) => ({ stroke: text, grid, ticks: grid, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18, labelGap: 0, ...more });
    this.legend = legend ? (series.length > 2 ? TWO_LINES : ONE_LINE) : 0;
    return {
      ...this.size(this.legend),
      legend: { show: legend, live: false },
      cursor: { drag: { x: false, y: false }, points: series.some((s) => s.bars) ? { show: false } : {} },
      padding: [10, 22, 0, 0],
      scales,
      axes: [axis({ size: 34, space: 46, ...x }), axis({ size: 46, space: 26, ...y })],
      series: [{}, ...series.map((s, i) => {
        const stroke = color(s.color ?? colors[i % colors.length]);
        return {
          label: s.label, stroke, width: s.width ?? 2, dash: s.dash, spanGaps: true, points: { show: false, ...s.points },
          ...(s.bars ? { fill: `${stroke}66`, paths: uPlot.paths.bars({ size: [0.92, 60], align: 0 }) } : {}),
        };
      })],
      hooks: { drawAxes: [(plot) => lines.forEach((line) => this.level(plot, line))] },
    };
  }

  level(plot, { at, label }) {
    const { ctx, bbox } = plot;
    const height = Math.round(plot.valToPos(at, "y", true)) + 0.5;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--quiet");
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, height);
    ctx.lineTo(bbox.left + bbox.width, height);
    ctx.stroke();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    ctx.fillText(label, bbox.left + bbox.width - 4, height - 4 * devicePixelRatio);
    ctx.restore();
  }
}

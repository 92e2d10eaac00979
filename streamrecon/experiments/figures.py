"""The figures of the report, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamrecon.experiments.methods import TITLES
from streamrecon.experiments.sampling import SLIDES_FACTOR
from streamrecon.experiments.tables import Row
from streamrecon.io import atomic_path

matplotlib.use("Agg")
_DPI = 80


def save(path: Path, figure: Figure) -> None:
    """Write a figure, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def _title(method: str) -> str:
    return TITLES.get(method, method)


def draw_maps(
    path: Path, truth: NDArray[np.float32], maps: Mapping[str, Mapping[str, NDArray[np.float32]]], heading: str
) -> None:
    """Draw the table of the slides: a method a row, its maps in the order of image visits, the truth last.

    Parameters
    ----------
    maps : mapping of method to mapping of label to ndarray (box, box, box)
    """
    columns = max(len(row) for row in maps.values()) + 1
    figure = Figure(figsize=(1.75 * columns + 1.2, 1.85 * len(maps) + 0.5), layout="constrained")
    axes = figure.subplots(len(maps), columns, squeeze=False)
    for line, (method, row) in zip(axes, maps.items(), strict=True):
        for cell in line:
            cell.axis("off")
        # beside the truth: rows of fewer maps begin further right
        for cell, (label, volume) in zip(line[columns - 1 - len(row) :], row.items(), strict=False):
            _projection(cell, volume, label)
        _projection(line[-1], truth, "truth")
        line[0].text(
            -0.06, 0.5, _title(method), transform=line[0].transAxes, rotation=90, va="center", ha="right", fontsize=8
        )
    figure.suptitle(heading, fontsize=10)
    save(path, figure)


def _projection(axes: Axes, volume: NDArray[np.float32], label: str) -> None:
    image = np.asarray(volume, np.float32).sum(axis=1)
    low, high = np.percentile(image, [2, 99.7])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bilinear")
    axes.set_title(label, fontsize=7, pad=2)


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draw FSC 0.5, held-out log-likelihood, map change and step size against image visits and processor seconds.

    A method's step size is in its own unit; batch methods and the running sums of online EM have none.
    """
    figure = Figure(figsize=(12, 11), layout="constrained")
    axes = figure.subplots(4, 2)
    measures = (
        ("fsc_05_angstrom", "FSC 0.5 to the truth (Å)"),
        ("held_out", "held-out log-likelihood (nats an image)"),
        ("map_change", "change of the map since the last point"),
        ("step_size", "step size, each in its own unit"),
    )
    for column, (x, x_label) in enumerate((("image_visits", "image visits"), ("cpu_seconds", "processor seconds"))):
        for line, (y, y_label) in zip(axes, measures, strict=True):
            for number, (method, own) in enumerate(_by(rows, "method").items()):
                points = [(r[x], r[y]) for r in own if r.get(y) is not None]
                if points:
                    style = {
                        "marker": "s" if method in ("em", "projection_matching") else ".",
                        "color": f"C{number % 10}",
                    }
                    line[column].plot(
                        *zip(*points, strict=True),
                        label=_title(method),
                        linestyle="-" if number < 10 else "--",
                        **style,
                    )
            line[column].set(xlabel=x_label, ylabel=y_label, xscale="log")
            line[column].grid(alpha=0.3)
            if y in ("map_change", "step_size"):
                line[column].set_yscale("log")
    axes[0, 1].legend(fontsize=7, ncols=2)
    save(path, figure)


def draw_fsc(path: Path, rows: Sequence[Row], key: str, box_angstrom: float) -> None:
    """Draw the final FSC to the truth of each value of a key."""
    figure = Figure(figsize=(8.6, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, own) in enumerate(_by(rows, key).items()):
        fsc = own[-1].get("fsc")
        if fsc:
            x = np.arange(len(fsc)) / box_angstrom
            axes.plot(x[1:], fsc[1:], label=_title(str(name)), linestyle="-" if number < 10 else "--")
    for threshold in (0.5, 0.143):
        axes.axhline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC to the truth", ylim=(-0.1, 1.02))
    figure.legend(loc="outside right upper", fontsize=7)  # beside the curves: within, it would hide the low ones
    save(path, figure)


def draw_starts(path: Path, rows: Sequence[Row], rates: Sequence[Row]) -> None:
    """Draw each start's share of right poses, and the success rates with their intervals."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = []
    for number, ((kind, method), own) in enumerate(_by2(rows).items()):
        shares = [100 * r["share_within_15"] for r in own]
        jitter = 0.25 * (np.arange(len(shares)) / max(1, len(shares) - 1) - 0.5)
        left.plot(number + jitter, shares, ".", color=f"C{number % 10}")
        labels.append(f"{_title(method)}\n{kind} start")
    left.axhline(50, color="0.6", linestyle="--", linewidth=0.8)
    left.set(ylabel="poses within 15° (%)", ylim=(-3, 103), title="each start")
    left.set_xticks(range(len(labels)), labels, fontsize=6, rotation=30)
    x = np.arange(len(rates))
    rate = np.array([r["rate"] for r in rates])
    bars = np.array([[r["rate"] - r["95 % from"], r["95 % to"] - r["rate"]] for r in rates]).T
    right.errorbar(x, rate, np.maximum(bars, 0), fmt="o", capsize=4)
    right.set_xticks(x, [f"{r['method']}\n{r['start']} start" for r in rates], fontsize=6, rotation=30)
    right.set(ylabel="success rate", ylim=(-0.03, 1.03), title="rate, 95 % (Wilson)")
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="y")
    save(path, figure)


def draw_sensitivity(path: Path, rows: Sequence[Row]) -> None:
    """Draw the final FSC 0.5 against what was varied."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    labels = {
        "step": ("factor", "step size over its default"),
        "batch": ("mini_batch", "mini-batch"),
        "snr": ("snr", "SNR"),
    }
    for axes, (varied, (key, label)) in zip(figure.subplots(1, 3), labels.items(), strict=True):
        for method, own in _by([r for r in rows if r["varied"] == varied], "method").items():
            points = sorted((r[key], r["fsc_05_angstrom"]) for r in own)
            axes.plot(*zip(*points, strict=True), marker=".", label=_title(method))
        axes.set(xlabel=label, ylabel="FSC 0.5 to the truth (Å)", xscale="log")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=6)
    save(path, figure)


def draw_sampling(path: Path, rows: Sequence[Row]) -> None:
    """Draw evaluations, FLOPs and gradient error against the band."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    k = [r["k_max"] for r in rows]
    left.semilogy(k, [r["grid_poses"] for r in rows], "s-", label="full grid")
    left.semilogy(k, [r["evaluations"] for r in rows], "o-", label="importance sampling")
    left.set(ylabel="full-band pose evaluations an image")
    middle.semilogy(k, [r["factor_evaluations"] for r in rows], "o-", label="evaluations")
    middle.semilogy(k, [r["factor_flops"] for r in rows], "^-", label="FLOPs, search counted")
    middle.axhline(SLIDES_FACTOR, color="0.5", linestyle="--", label="the slides' 100,000")
    middle.set(ylabel="full grid over importance sampling")
    right.plot(k, [r["sampled_error"] for r in rows], "o-", label="importance sampling, rms")
    right.plot(k, [r["sampled_median"] for r in rows], "o:", label="importance sampling, median image")
    twice = [r for r in rows if "grid_error" in r]
    right.plot([r["k_max"] for r in twice], [r["grid_error"] for r in twice], "s-", label="another full grid")
    right.axhline(1.0, color="0.5", linestyle="--", label="the mini-batch's own noise")
    right.set(ylabel="gradient's error over sampling noise", yscale="log")
    for axes in (left, middle, right):
        axes.set(xlabel="band (shells)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    save(path, figure)


def draw_real(path: Path, rows: Sequence[Row]) -> None:
    """Draw how far each optimiser is above the exact minimum, step by step."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for method, own in _by([r for r in rows if "excess" in r], "method").items():
        axes.semilogy([r["step"] for r in own], [max(r["excess"], 1e-8) for r in own], marker=".", label=_title(method))
    axes.set(xlabel="steps, all 50 particles in each", ylabel="above the minimum, of the whole gain")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save(path, figure)


def _by(rows: Sequence[Row], key: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _by2(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["method"]), []).append(row)
    return groups

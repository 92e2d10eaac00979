"""One picture that says how a session went: slices and projections beside the truth, FSC, resolution over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamrecon.assess.align import FscCurve
from streamrecon.io import atomic_path

matplotlib.use("Agg")
_VIEWS = ("xy", "xz", "yz")


@dataclass(frozen=True)
class Progress:
    """Points of the session: particles seen, and the resolution (angstrom) reported then."""

    particles_seen: list[int]
    resolution_angstrom: list[float]


def draw_contact_sheet(
    path: Path,
    title: str,
    maps: dict[str, NDArray[np.float32]],
    curves: dict[str, FscCurve],
    progress: Progress,
) -> None:
    """Draw the sheet as PNG.

    Parameters
    ----------
    maps : dict of str to ndarray (box, box, box)
        A row of central slices and projections each.
    curves : dict of str to FscCurve
    """
    figure = Figure(figsize=(13, 2.5 * len(maps) + 4.2), layout="constrained")
    panels = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.5 * len(maps), 4.2])
    axes = panels[0, 0].subplots(len(maps), 6, squeeze=False)
    for row, (name, volume) in zip(axes, maps.items(), strict=True):
        for column, view in enumerate(_VIEWS):
            axis = 0 if view == "xy" else 1 if view == "xz" else 2
            _show(row[column], np.take(volume, len(volume) // 2, axis=axis), f"{name}: slice {view}")
            _show(row[column + 3], volume.sum(axis=axis), f"{name}: projection {view}")
    left, right = panels[1, 0].subplots(1, 2)
    for name, curve in curves.items():
        label = f"{name} (0.5 at {curve.resolution_05_angstrom:.1f} Å)"
        # shell 0 is the mean density, which images do not tell
        left.plot(curve.spatial_frequency_per_angstrom[1:], curve.fsc[1:], label=label)
    for threshold in (0.5, 0.143):
        left.axhline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    left.set(xlabel="spatial frequency (1/Å)", ylabel="FSC", ylim=(-0.1, 1.02), title="Fourier shell correlation")
    left.legend(fontsize=8)
    right.plot(progress.particles_seen, progress.resolution_angstrom, marker=".")
    right.set(xlabel="particles seen", ylabel="resolution (Å)", title="Resolution as the particles came")
    right.grid(alpha=0.3)
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _show(axes: Axes, image: NDArray[np.float32], title: str) -> None:
    low, high = np.percentile(image, [1, 99.7])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bilinear")
    axes.set_title(title, fontsize=8)
    axes.axis("off")

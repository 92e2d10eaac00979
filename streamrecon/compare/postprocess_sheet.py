"""One picture of a postprocessing: FSC curves, Guinier plot, and slices of the map with its mask."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamrecon.assess.half_maps import HalfMapAssessment
from streamrecon.io import atomic_path

matplotlib.use("Agg")


def draw_postprocess_sheet(
    path: Path, title: str, found: HalfMapAssessment, local: NDArray[np.float32] | None = None
) -> None:
    """Draw the sheet as PNG.

    Parameters
    ----------
    path : Path
    title : str
    found : HalfMapAssessment
    local : ndarray, (box,)*3, optional
        Local resolution, angstrom, 0 outside the mask.
    """
    curves, sharpened = found.curves, found.sharpened
    length = curves.box_size * curves.voxel_size_angstrom
    figure = Figure(figsize=(13, 8.6), layout="constrained")
    axes = figure.subplots(2, 3)
    left, right = axes[0, 0], axes[0, 1]
    frequency = np.arange(len(curves.corrected)) / length
    lines = (
        ("unmasked", curves.unmasked, "tab:green"),
        ("masked", curves.masked, "tab:blue"),
        ("phases randomised, masked", curves.randomised, "tab:red"),
        ("corrected", curves.corrected, "black"),
    )
    for name, curve, color in lines:
        # shell 0 is the mean density, which images do not tell
        left.plot(frequency[1:], curve[1:], label=name, color=color, linewidth=1.8 if name == "corrected" else 1.1)
    for threshold in (0.5, 0.143):
        left.axhline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    left.axvline(1 / curves.resolution_angstrom(), color="0.6", linewidth=0.8)
    left.set(xlabel="spatial frequency (1/Å)", ylabel="FSC", ylim=(-0.1, 1.03))
    left.set_title(f"FSC 0.143 at {curves.resolution_angstrom():.2f} Å, 0.5 at {curves.resolution_angstrom(0.5):.2f} Å")
    left.legend(fontsize=8)
    squared = frequency**2
    for name, amplitude, color in (
        ("mean of the halves", sharpened.amplitude, "black"),
        ("weighted by the FSC", sharpened.weighted, "tab:blue"),
        ("sharpened", sharpened.sharpened, "tab:red"),
    ):
        use = amplitude > 0
        right.plot(squared[use], np.log(amplitude[use]), label=name, color=color, linewidth=1.1)
    if sharpened.fit is not None:
        span = squared[(squared >= 1 / 100) & (sharpened.weighted > 0)]
        line = sharpened.fit.intercept + sharpened.fit.b_factor_angstrom2 / 4 * span
        right.plot(span, line, color="0.4", linestyle="--", label="fit from 10 Å on")
    right.set(xlabel="1/d² (1/Å²)", ylabel="ln(mean amplitude)")
    right.set_title(f"Guinier plot, B factor applied {sharpened.b_factor_angstrom2:.0f} Å²")
    right.legend(fontsize=8)
    middle = curves.box_size // 2
    # a column or row of views, so that a preferred direction shows
    shown = ((axes[0, 2], 0, "xy"), (axes[1, 0], 1, "xz"), (axes[1, 1], 2, "yz"))
    low, high = np.percentile(sharpened.volume, [1, 99.8])
    for panel, axis, view in shown:
        image = np.take(sharpened.volume, middle, axis=axis)
        panel.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bilinear")
        outline = np.take(found.mask, middle, axis=axis)
        panel.contour(outline, levels=[0.5], colors=["tab:orange"], linewidths=1.0)
        panel.set_title(f"sharpened, slice {view}, mask at 0.5", fontsize=9)
        panel.axis("off")
    last = axes[1, 2]
    if local is None:
        last.imshow(found.mask.sum(axis=0), cmap="gray", origin="lower")
        last.set_title("mask, projection xy", fontsize=9)
    else:
        section = np.ma.masked_equal(local[middle], 0.0)
        held = local[local > 0]
        shown_local = last.imshow(
            section, cmap="viridis_r", vmin=np.percentile(held, 2), vmax=np.percentile(held, 90), origin="lower"
        )
        figure.colorbar(shown_local, ax=last, label="Å")
        last.set_title("local resolution (FSC 0.5), slice xy", fontsize=9)
    last.axis("off")
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)

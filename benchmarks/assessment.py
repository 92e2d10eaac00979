"""What an assessment costs beside the worker, how near RELION's postprocess it comes, which symmetries are found."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import scipy.fft
from gemmi import cif
from numpy.typing import NDArray

from benchmarks.common import beta_galactosidase, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.assess.directions import orientation_efficiency, tilt_suggestion_degrees
from streamrecon.assess.half_maps import assess_half_maps, make_mask
from streamrecon.assess.symmetry_search import find_symmetry
from streamrecon.fourier.shells import shell_index_rfft, shell_sums
from streamrecon.io import write_volume

Halves = tuple[NDArray[np.float32], NDArray[np.float32]]


def noisy_halves(truth: NDArray[np.float32], seed: int, share: float = 0.5) -> Halves:
    """Return two halves with white noise as strong as the signal at a share of the way to Nyquist."""
    box = len(truth)
    index, n = shell_index_rfft(box), box // 2 + 1
    power = shell_sums(np.abs(scipy.fft.rfftn(truth)) ** 2, index, n) / shell_sums(np.ones(index.shape), index, n)
    sigma = np.sqrt(6 * power[round(share * box / 2)] / box**3)
    rng = np.random.default_rng(seed)
    a, b = ((truth + sigma * rng.standard_normal(truth.shape)).astype(np.float32) for _ in range(2))
    return a, b


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of some work, and what it gave."""
    began = time.process_time()
    out = work()
    return time.process_time() - began, out


@dataclass(frozen=True)
class Cost:
    """Processor seconds of one assessment's parts at a box size."""

    box_size: int
    mask: float
    curves_map_cones: float
    symmetry: float
    views: float


def cost(box_size: int) -> Cost:
    """Measure one box size."""
    specimen = f1_atpase(box_size)
    a, b = noisy_halves(specimen.volume, 0)
    voxel = specimen.pixel_size_angstrom
    mask_s, mask = cpu_seconds(lambda: make_mask("auto", a, b, voxel))
    rest_s, found = cpu_seconds(lambda: assess_half_maps(a, b, voxel, mask))
    symmetry_s, _ = cpu_seconds(lambda: find_symmetry((a + b) / 2 * mask, found.curves.corrected))
    counts = np.random.default_rng(0).poisson(10, 768).astype(float)
    views_s, _ = cpu_seconds(lambda: (orientation_efficiency(counts), tilt_suggestion_degrees(counts)))
    return Cost(box_size, mask_s, rest_s, symmetry_s, views_s)


@dataclass(frozen=True)
class Agreement:
    """Our postprocessing beside RELION's of the same halves and mask."""

    seed: int
    largest_fsc_difference: float
    resolution_angstrom: float
    relion_resolution_angstrom: float
    b_factor_angstrom2: float
    relion_b_factor_angstrom2: float


def agreement(seed: int) -> Agreement:
    """Run both on one set of halves."""
    specimen = f1_atpase(96)
    voxel = specimen.pixel_size_angstrom
    a, b = noisy_halves(specimen.volume, seed)
    mask = make_mask("auto", a, b, voxel)
    found = assess_half_maps(a, b, voxel, mask)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, volume in (("half1", a), ("half2", b), ("mask", mask)):
            write_volume(folder / f"{stem}.mrc", volume, voxel)
        (folder / "pp").mkdir()
        command = (
            f"relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix {voxel} --auto_bfac --o pp/post"
        )
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
        document = cif.read(str(folder / "pp" / "post.star"))
    general, fsc = document.find_block("general"), document.find_block("fsc")
    theirs = np.array([float(x) for x in fsc.find_loop("_rlnFourierShellCorrelationCorrected")])
    fit = found.sharpened.fit
    return Agreement(
        seed=seed,
        largest_fsc_difference=float(np.abs(found.curves.corrected - theirs)[1:].max()),
        resolution_angstrom=found.curves.shell_resolution_angstrom,
        relion_resolution_angstrom=float(general.find_value("_rlnFinalResolution")),
        b_factor_angstrom2=fit.b_factor_angstrom2 if fit is not None else float("nan"),
        relion_b_factor_angstrom2=float(general.find_value("_rlnBfactorUsedForSharpening")),
    )


def symmetries() -> list[dict[str, Any]]:
    """Search two specimens for axes, at three noise levels, as the worker does: masked mean, corrected FSC."""
    rows = []
    for specimen in (beta_galactosidase(), f1_atpase()):
        for noise in (0.1, 1.0, 3.0):
            rng = np.random.default_rng(1)
            sigma = noise * specimen.volume.std()
            a, b = (specimen.volume + sigma * rng.standard_normal(specimen.volume.shape) for _ in range(2))
            mask = make_mask("auto", a, b, specimen.pixel_size_angstrom)
            curves = assess_half_maps(a, b, specimen.pixel_size_angstrom, mask).curves
            found = find_symmetry((a + b) / 2 * mask, curves.corrected)
            rows.append(
                {
                    "specimen": specimen.name,
                    "noise": noise,
                    "resolution_angstrom": curves.resolution_angstrom(),
                    "group": found.group,
                    "correlation": found.correlation,
                    "nearest": found.runner_up,
                }
            )
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--boxes", type=int, nargs="+", default=[64, 128, 256])
    options = arguments.parse_args()
    print_machine()
    costs = [asdict(cost(box)) for box in options.boxes]
    print("\nprocessor seconds of one assessment")
    print_table(costs)
    agreements: list[dict[str, Any]] = []
    if which("relion_postprocess"):
        agreements = [asdict(agreement(seed)) for seed in range(5)]
        print("\nbeside relion_postprocess, the same halves under the same mask")
        print_table(agreements)
    found = symmetries()
    print("\nsymmetry found; noise of each half in standard deviations of the map")
    print_table(found)
    write_json(options.json, {"costs": costs, "relion": agreements, "symmetry": found})


if __name__ == "__main__":
    main()

"""The problem that all methods are given: a specimen, its images in an order, and images that no method sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamrecon.experiments.plan import Data
from streamrecon.inference.observation import ImageGeometry
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.extent import geometry_for
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings
from streamrecon.simulate.specimen import density_from_map, density_from_model

# micrographs of one microscope: those a method sees are counted from 0
HELD_OUT_NUMBER = 1_000_000
TUNING_NUMBER = 2_000_000


@dataclass(frozen=True)
class Problem:
    """A specimen, and the microscope that takes its pictures.

    Attributes
    ----------
    truth : ndarray, (box, box, box) float32
    microscope : Microscope
        Realistic CTFs (10,000 to 25,000 angstrom of defocus, astigmatism, shifts), white noise of variance 1.
    mini_batch : int
    """

    truth: NDArray[np.float32]
    microscope: Microscope
    mini_batch: int

    @property
    def box_size(self) -> int:
        """Return the box, pixels."""
        return len(self.truth)

    @property
    def pixel_size_angstrom(self) -> float:
        """Return the pixel size, angstrom."""
        return self.microscope.settings.pixel_size_angstrom

    @property
    def geometry(self) -> ImageGeometry:
        """Return the geometry that all methods assume."""
        return geometry_for(EngineSettings(), self.box_size, self.pixel_size_angstrom)

    def batches(self, images: int, first: int = 0) -> Iterator[ParticleBatch]:
        """Yield mini-batches, from micrograph ``first`` on; their tables hold the true poses."""
        size = self.mini_batch
        for number in range(-(-images // size)):
            n = min(size, images - number * size)
            name = f"{first + number}"
            taken = self.microscope.micrograph(first + number, f"stack_{name}", f"mic_{name}", n)
            yield ParticleBatch(taken.images, taken.table, tuple(taken.table.identities()))


def make_problem(
    data: Data,
    *,
    box_size: int | None = None,
    snr: float | None = None,
    mini_batch: int | None = None,
    seed: int | None = None,
) -> Problem:
    """Make the problem of a plan, or a variation of it.

    Raises
    ------
    IngestError
        The specimen's file cannot be read.
    """
    box = box_size or data.box_size
    pixel = data.box_angstrom / box
    truth = _density(data.specimen, box, pixel)
    size = mini_batch or data.mini_batch
    settings = MicroscopeSettings(
        pixel_size_angstrom=pixel,
        particles_per_micrograph=size,
        snr=snr or data.snr,
        seed=data.seed if seed is None else seed,
    )
    return Problem(truth, Microscope(truth, settings), size)


@lru_cache(maxsize=4)
def _density(specimen: str, box: int, pixel: float) -> NDArray[np.float32]:
    # BLAS on two threads rounds otherwise than on one, and random starts are sensitive to the last bit
    with threadpool_limits(1, user_api="blas"):
        if specimen.endswith((".mrc", ".map")):
            return density_from_map(Path(specimen), box, pixel)
        return density_from_model(Path(specimen) if specimen else None, box, pixel)


def true_poses(batch: ParticleBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the true rotations (n, 3, 3) and shifts (n, 2), angstrom, of a simulated batch."""
    table = batch.table
    if table.rotation is None or table.shift_angstrom is None:
        raise RuntimeError("the microscope gave no poses")
    return table.rotation, table.shift_angstrom

"""Simulated batches straight from the microscope, without files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamrecon.particles import ParticleBatch
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings
from streamrecon.simulate.specimen import density_from_model


def f1_atpase(box: int = 64, pixel_size: float = 3.2) -> np.ndarray:
    return density_from_model(None, box, pixel_size)


def batches(
    volume: np.ndarray, pixel_size: float, n: int, snr: float, seed: int, size: int = 100
) -> Iterator[tuple[ParticleBatch, np.ndarray]]:
    """Yield batches and their true rotations; each batch is one micrograph."""
    settings = MicroscopeSettings(pixel_size_angstrom=pixel_size, particles_per_micrograph=size, snr=snr, seed=seed)
    microscope = Microscope(volume, settings)
    for number in range(-(-n // size)):
        taken = microscope.micrograph(number, f"stack_{number}", f"mic_{number}", min(size, n - number * size))
        table = taken.table
        yield ParticleBatch(taken.images, table, tuple(table.identities())), np.asarray(table.rotation)

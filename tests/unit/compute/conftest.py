"""A small smooth volume and its cube, and the CPU backend."""

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend

BOX = 32


@pytest.fixture(scope="session")
def backend():
    return CpuBackend(2)


@pytest.fixture(scope="session")
def blobs():
    """Centres (x, y, z), widths and heights of Gaussian blobs: a volume known in closed form."""
    rng = np.random.default_rng(5)
    return rng.uniform(-6, 6, (12, 3)), rng.uniform(1.6, 2.4, 12), rng.uniform(0.5, 1.5, 12)


def gaussian_volume(blobs, box=BOX):
    centre, width, height = blobs
    axis = np.arange(box) - box // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    out = np.zeros((box,) * 3)
    for (cx, cy, cz), w, h in zip(centre, width, height, strict=True):
        out += h * np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * w**2))
    return out.astype(np.float32)


def gaussian_transform(blobs, k, box=BOX):
    """Transform of the blobs at frequencies k (..., 3) in Fourier pixels: the analytic route."""
    centre, width, height = blobs
    out = np.zeros(k.shape[:-1], complex)
    for c, w, h in zip(centre, width, height, strict=True):
        norm = h * (2 * np.pi * w**2) ** 1.5
        decay = np.exp(-2 * np.pi**2 * w**2 * (k**2).sum(axis=-1) / box**2)
        out += norm * decay * np.exp(-2j * np.pi * (k @ c) / box)
    return out

"""Maps whose truth is known: a specimen with noise of a known spectrum, and clusters of blobs with a point group."""

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from streamrecon.fourier.shells import shell_index_rfft, shell_sums
from streamrecon.geometry.symmetry import symmetry_operators


def noisy_halves(truth, shell, rng, fsc=0.143):
    """Two halves with white noise, such that their FSC crosses ``fsc`` about at ``shell``."""
    box = len(truth)
    index = shell_index_rfft(box)
    power = shell_sums(np.abs(scipy.fft.rfftn(truth)) ** 2, index, box // 2 + 1)
    count = shell_sums(np.ones(index.shape), index, box // 2 + 1)
    sigma = np.sqrt(power[shell] / count[shell] / box**3 * (1 - fsc) / fsc)
    return tuple((truth + sigma * rng.standard_normal(truth.shape)).astype(np.float32) for _ in range(2))


def blobs(group, n, box=48, seed=0):
    """A density with a point group, its axes turned and moved at random; returns it, the rotation and the centre."""
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((n, 3))
    places *= (rng.uniform(0.3, 1, n) ** (1 / 3) * 0.31 * box / np.linalg.norm(places, axis=1))[:, None]
    heights = rng.uniform(0.5, 1.5, n)
    turn = Rotation.random(random_state=seed).as_matrix()
    center = rng.uniform(-1.5, 1.5, 3)
    axis = np.arange(box) - box // 2
    volume = np.zeros((box, box, box), np.float32)
    for operator in symmetry_operators(group):
        for place, height in zip(places, heights, strict=True):
            at = turn @ operator @ place + center
            x, y, z = (np.exp(-((axis - c) ** 2) / (2 * 1.5**2)) for c in at)
            volume += (height * z[:, None, None] * y[:, None] * x).astype(np.float32)
    return volume, turn, center

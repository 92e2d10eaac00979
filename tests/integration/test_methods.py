"""Every method makes a map: of known poses what least squares makes of them, and one from a random start."""

from __future__ import annotations

import numpy as np
import pytest

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cpu_kernels import slices
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import soft_sphere
from streamrecon.optimise.methods import METHODS, make_optimiser
from streamrecon.optimise.objective import MapModel, PosedImages
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings
from tests.simulated import batches, f1_atpase
from tests.unit.compute.conftest import BOX, gaussian_volume
from tests.unit.compute.conftest import blobs as blobs  # the fixture itself

PIXEL = 6.4
K_MAX, MAP_BOX = 7, 18
IMAGES, BATCHES = 50, 50


class KnownPoses:
    """Mini-batches of a map that the model can represent, with CTFs and noise; and their least-squares answer."""

    def __init__(self, volume):
        self.backend = CpuBackend(1)
        self.points = half_plane_points(K_MAX)
        self.model = MapModel(self.backend, 2, K_MAX, MAP_BOX, soft_sphere(MAP_BOX, 7.0, 1.5, dimensions=3))
        full = MapModel(self.backend, 2, K_MAX, BOX, np.ones((BOX,) * 3, np.float32))
        self.truth = full.vector(volume)
        self.cube = self.model.cube(self.truth)
        self.noise = 0.5 * np.sqrt((self.cube.astype(float) ** 2).mean())
        self.rng = np.random.default_rng(7)
        self.closures = [self._batch() for _ in range(BATCHES)]
        self.best = self.away(self.least_squares())

    def _batch(self):
        n, points, backend = IMAGES, self.points, self.backend
        rotation = random_rotations(self.rng, n)[:, None].astype(np.float32)
        shift = self.rng.normal(0, 1, (n, 1, 2)).astype(np.float32)
        defocus = self.rng.uniform(0.05, 0.15, (n, 1))
        ctf = np.sin(defocus * (points.kx**2 + points.ky**2) + 0.1).astype(np.float32)
        # an image's transform is C S P V: what insertion and extraction are made of gives it point by point
        clean = self._slices(rotation, shift)
        noise = self.rng.normal(0, self.noise / np.sqrt(2), (2, *ctf.shape))
        image = ctf * clean + noise[0] + 1j * noise[1]
        inverse = np.full((n, K_MAX + 1), 1 / self.noise**2, np.float32)
        weighed = backend.weigh(
            image.real.astype(np.float32), image.imag.astype(np.float32), ctf, points.shell, inverse
        )
        samples = PoseSamples(
            rotation, shift, np.ones((n, 1), np.float32), np.zeros(n, np.float32), np.ones(n, np.float32),
            np.zeros(n, np.int32), 0,
        )  # fmt: skip
        # a stream: no mini-batch comes twice
        return PosedImages(self.model, BOX, points, weighed, samples)

    def _slices(self, rotation, shift):
        """Return S P V."""
        real, imaginary = np.empty((2, IMAGES, len(self.points)), np.float32)
        slices.extract_slices(self.cube, 2, self.points.kx, self.points.ky, rotation[:, 0], real, imaginary)
        turns = shift[:, 0] @ np.stack([self.points.kx, self.points.ky]) / BOX
        return np.exp(-2j * np.pi * turns) * (real + 1j * imaginary)

    def away(self, vector):
        """Return how far a map is from the truth, relative to it, as it is sliced: under the mask."""
        here, there = self.model.volume(vector).ravel(), self.model.volume(self.truth).ravel()
        return np.linalg.norm(here - there) / np.linalg.norm(there)

    def least_squares(self):
        """Return what all images together give, by conjugate gradients on the sum of all mini-batches."""
        x = np.zeros_like(self.truth)
        r = -sum(f.gradient(x) for f in self.closures)
        p = r
        for _ in range(40):
            q = sum(f.product(p) for f in self.closures)
            step = (r @ r) / (p @ q)
            x, new = x + step * p, r - step * q
            p, r = new + (new @ new) / (r @ r) * p, new
        return x


@pytest.fixture(scope="module")
def known(blobs):
    return KnownPoses(gaussian_volume(blobs))


@pytest.mark.parametrize("name", METHODS)
def test_known_poses_give_the_map(known, name):
    """One pass over 2,500 noisy images, untuned: within a few times the error of least squares over all at once.

    SAGD's steps are behind by the gradients that it averages over; all others have seen enough.
    """
    optimiser, vector = make_optimiser(name), np.zeros_like(known.truth)
    for closure in known.closures:
        vector = optimiser.step(vector, closure)
    assert known.away(vector) < (6.0 if name == "sagd" else 3.0) * known.best


@pytest.mark.slow
@pytest.mark.parametrize(("name", "particles"), [("nesterov", 7500), ("adagrad", 3500), ("olbfgs", 4500)])
def test_a_random_start_ends_in_the_map(name, particles):
    """F1-ATPase from random poses, untuned, in one pass; `python -m benchmarks.methods` does it with every method."""
    truth = f1_atpase(BOX, PIXEL)
    engine = Engine(EngineSettings(method=name, starts=1), BOX, PIXEL, CpuBackend(2), 1)
    found, true = [], []
    for batch, rotation in batches(truth, PIXEL, particles, 0.3, seed=1):
        found.append(engine.fold(batch).rotation)
        true.append(rotation)
    status = engine.status
    assert status.stage in ("settled", "refining")
    assert status.method == name
    errors = pose_errors(np.concatenate(true[-8:]), np.concatenate(found[-8:]))
    assert errors.share_within(15.0) > 0.75
    assert errors.median_degrees < 6.0
    snapshot = engine.snapshot()
    aligned = align_volumes(truth, snapshot.volume, PIXEL)
    assert fsc_between(truth, aligned.volume, PIXEL).resolution_05_angstrom < 2.6 * PIXEL

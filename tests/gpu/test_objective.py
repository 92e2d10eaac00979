"""The objective of posed images on the device: the same gradients, products and curvature as on the CPU."""

import numpy as np

from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import soft_sphere
from streamrecon.optimise.coordinates import band_coordinates
from streamrecon.optimise.objective import MapModel, PosedImages

BOX, K_MAX, MAP_BOX, IMAGES, POSES = 32, 4, 12, 5, 3


def objective(backend):
    rng = np.random.default_rng(5)
    points = half_plane_points(K_MAX)
    to_device = backend.to_device
    weighed = rng.normal(size=(3, IMAGES, len(points))).astype(np.float32)
    weighed[2] = np.abs(weighed[2])
    weight = rng.random((IMAGES, POSES)).astype(np.float32)
    weight[0, 0] = 1e-6
    samples = PoseSamples(
        rotation=to_device(random_rotations(rng, IMAGES * POSES).reshape(IMAGES, POSES, 3, 3).astype(np.float32)),
        shift=to_device(rng.normal(0, 1, (IMAGES, POSES, 2)).astype(np.float32)),
        weight=to_device(weight),
        log_evidence=np.zeros(IMAGES, np.float32),
        effective_sample_size=np.ones(IMAGES, np.float32),
        best=np.zeros(IMAGES, np.int32),
        evaluations=0,
    )
    mask = to_device(soft_sphere(MAP_BOX, 4.0, 1.5, dimensions=3))
    model = MapModel(backend, 2, K_MAX, MAP_BOX, mask)
    return PosedImages(model, BOX, points, to_device(weighed), samples)


def test_the_same_as_on_the_cpu(any_device):
    here, there = objective(CpuBackend(1)), objective(CudaBackend(any_device))
    vector = np.random.default_rng(6).normal(size=len(band_coordinates(K_MAX))).astype(np.float32)
    for found, expected in (
        (there.gradient(vector), here.gradient(vector)),
        (there.product(vector), here.product(vector)),
        (there.curvature, here.curvature),
    ):
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert np.isclose(there.value(vector), here.value(vector), rtol=1e-4)

"""Half maps under an optimiser: the default's first map, halves apart, a fresh start at the hand-over, state."""

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry
from streamrecon.optimise.coordinates import band_coordinates
from streamrecon.optimise.momentum import Momentum
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.mapping import signal_to_noise
from streamrecon.reconstruct.optimised_halves import OptimisedHalves, make_halves
from streamrecon.reconstruct.settings import EngineSettings

BOX, K_MAX, IMAGES = 32, 5, 12
GEOMETRY = ImageGeometry(BOX, 4.0, 12.0, 2.0)


@pytest.fixture(scope="module")
def backend():
    return CpuBackend(2)


def images(rng, backend, k_max=K_MAX, n=IMAGES):
    """Return poses, weighed images and points of n images of noise."""
    points = half_plane_points(k_max)
    image = rng.normal(size=(2, n, len(points))).astype(np.float32)
    ctf = rng.uniform(0.2, 1, (n, len(points))).astype(np.float32)
    weighed = backend.weigh(image[0], image[1], ctf, points.shell, np.ones((n, k_max + 1), np.float32))
    samples = PoseSamples(
        rotation=random_rotations(rng, n)[:, None].astype(np.float32),
        shift=np.zeros((n, 1, 2), np.float32),
        weight=np.ones((n, 1), np.float32),
        log_evidence=np.zeros(n, np.float32),
        effective_sample_size=np.ones(n, np.float32),
        best=np.zeros(n, np.int32),
        evaluations=0,
    )
    return samples, weighed, points


@pytest.fixture
def halves(rng, backend):
    """Under way: the first map is made, and the optimisers have it."""
    found = OptimisedHalves(backend, GEOMETRY, K_MAX, lambda: Momentum(0.3, 1e4))
    found.insert(IMAGES // 2, *images(rng, backend), 1e-3)
    found.solve(K_MAX)
    found.forget(0.0)
    return found


def vectors(halves):
    arrays, _ = halves.state()
    return arrays["vector_a"].copy(), arrays["vector_b"].copy()


def test_the_first_map_is_the_defaults_whatever_the_method(rng, backend):
    first = images(rng, backend)
    plain = HalfMaps(backend, GEOMETRY, K_MAX)
    other = make_halves(EngineSettings(method="adagrad"), backend, GEOMETRY, K_MAX)
    assert isinstance(other, OptimisedHalves)
    assert type(make_halves(EngineSettings(), backend, GEOMETRY, K_MAX)) is HalfMaps
    for found in (plain, other):
        found.insert(IMAGES // 2, *first, 1e-3)
    assert np.array_equal(plain.solve(K_MAX).volume, other.solve(K_MAX).volume)


def test_steps_are_not_shared_between_processes(backend):
    class Two:
        rank, size = 0, 2

    with pytest.raises(ValueError, match=r"sgd.*one process, found 2"):
        make_halves(EngineSettings(method="sgd"), backend, GEOMETRY, K_MAX, Two())


def test_each_half_follows_its_own_images(rng, backend, halves):
    """Images that all belong to half a leave half b alone, and move half a along the gradient of theirs."""
    a, b = vectors(halves)
    halves.insert(IMAGES, *images(rng, backend), 1e-3)
    after_a, after_b = vectors(halves)
    assert np.array_equal(b, after_b)
    assert not np.array_equal(a, after_a)
    assert np.isfinite(halves.step_size)


def test_forgetting_is_the_optimisers_own_business(halves):
    before = vectors(halves)
    halves.forget(0.7)
    assert all(np.array_equal(x, y) for x, y in zip(before, vectors(halves), strict=True))


def test_maps_are_filtered_by_their_fsc(backend, halves):
    a, b = vectors(halves)
    latest = halves.solve(K_MAX)
    model = halves._model(K_MAX)
    fsc = backend.shell_correlation(model.volume(a), model.volume(b), K_MAX + 1)
    np.testing.assert_allclose(latest.fsc, fsc, atol=1e-6)
    ssnr = signal_to_noise(fsc, K_MAX + 1)
    ssnr[0] = ssnr[1]
    share = (2 * ssnr / (1 + 2 * ssnr))[band_coordinates(K_MAX).shell]
    expected = model.volume((share * (a + b) / 2).astype(np.float32))
    np.testing.assert_allclose(latest.volume, expected, atol=1e-5 * np.abs(expected).max())
    assert halves.latest is latest


def test_the_band_grows_and_shrinks_with_what_is_known(rng, backend, halves):
    halves.insert(IMAGES // 2, *images(rng, backend, K_MAX + 2), 1e-3)
    a, _ = vectors(halves)
    assert len(a) == len(band_coordinates(K_MAX + 2))
    assert a[len(band_coordinates(K_MAX)) :].any()
    assert halves.solve(K_MAX + 2).k_max == K_MAX + 2
    halves.insert(IMAGES // 2, *images(rng, backend, K_MAX), 1e-3)
    assert len(vectors(halves)[0]) == len(band_coordinates(K_MAX))


def test_at_the_hand_over_both_halves_start_over_from_what_they_share(rng, backend, halves):
    halves.insert(IMAGES // 2, *images(rng, backend), 1e-3)
    halves.solve(K_MAX)
    halves.fsc = np.array([1, 0.9, 0.85, 0.3, 0.2, 0.1], np.float32)
    halves.forget(0.0)
    a, b = vectors(halves)
    assert np.array_equal(a, b)
    shell = band_coordinates(K_MAX).shell
    assert a[shell <= 2].any()
    assert not a[shell > 2].any()
    # nothing of the old direction is remembered
    assert not any("velocity" in name for name in halves.state()[0])


def test_a_restored_pair_goes_on_bit_for_bit(rng, backend, halves):
    halves.insert(IMAGES // 2, *images(rng, backend), 1e-3)
    arrays, scalars = halves.state()
    again = OptimisedHalves(backend, GEOMETRY, K_MAX, lambda: Momentum(0.3, 1e4))
    again.restore({name: np.array(array) for name, array in arrays.items()}, scalars)
    more = images(rng, backend, K_MAX + 1)
    for found in (halves, again):
        found.insert(IMAGES // 2, *more, 1e-3)
    assert np.array_equal(halves.solve(K_MAX + 1).volume, again.solve(K_MAX + 1).volume)


def test_steps_cannot_be_taken_back(rng, backend, halves):
    with pytest.raises(RuntimeError, match="cannot be taken back"):
        halves.insert(IMAGES // 2, *images(rng, backend), 1e-3, sign=-1.0)


def test_a_step_out_of_range_is_refused_and_leaves_the_maps_alone(rng, backend, halves):
    before = vectors(halves)
    samples, weighed, points = images(rng, backend)
    weighed[:2] = np.inf
    with pytest.raises(NumericalError, match=r"engine\.method momentum.*engine\.step_size"), np.errstate(all="ignore"):
        halves.insert(IMAGES // 2, samples, weighed, points, 1e-3)
    assert all(np.array_equal(x, y) for x, y in zip(before, vectors(halves), strict=True))
    halves.insert(IMAGES // 2, *images(rng, backend), 1e-3)
    assert all(np.isfinite(v).all() for v in vectors(halves))

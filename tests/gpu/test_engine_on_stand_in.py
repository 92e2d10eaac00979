"""The whole engine on the stand-in: the CPU's map, and nothing crosses to or from the device that is not asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.errors import DeviceError
from streamrecon.fourier.shells import fourier_shell_correlation, shell_index_rfft
from streamrecon.reconstruct.backproject import GivenPoses
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings
from tests.simulated import batches, f1_atpase

BOX, PIXEL = 32, 6.4
SETTINGS = EngineSettings(
    starts=1, settle_images=300, search_shells=8, in_plane_angles=24, direction_order=2, samples=32, update_images=300,
    images_per_shell=100,
)  # fmt: skip
# what one step may move, in arrays: images, CTF, noise, random numbers; power spectra, histograms, evidence, result
MOST_UPLOADS = 14
MOST_DOWNLOADS = 20


@pytest.fixture(scope="module")
def truth():
    return f1_atpase(BOX, PIXEL)


def particles(truth, n, snr=4.0, size=100):
    return [b for b, _ in batches(truth, PIXEL, n, snr, seed=3, size=size)]


def fresh(backend):
    return Engine(SETTINGS, BOX, PIXEL, backend, 1)


def fsc(one, other):
    transforms = (np.fft.rfftn(v.astype(np.float64)) for v in (one, other))
    return fourier_shell_correlation(*transforms, shell_index_rfft(BOX), BOX // 2)


@pytest.mark.slow
def test_ab_initio_reaches_the_map_of_the_cpu(truth, any_device, memory):
    """From a random start to the same map, without a hidden transfer.

    FSC above 0.99 between the two maps wherever the halves of one agree as well. Beyond, a single draw that rounding
    sends the other way makes two runs differ as two seeds do: by a shell or two of what they report.
    """
    on_cpu, on_device = fresh(CpuBackend(2)), fresh(CudaBackend(any_device))
    for batch in particles(truth, 1000):
        on_cpu.fold(batch)
        memory.traffic.clear()
        on_device.fold(batch)
        assert memory.traffic["sync"] == 0
    first, second = on_cpu.snapshot(), on_device.snapshot()
    assert first.status.stage == second.status.stage != "searching"
    assert abs(first.status.k_max - second.status.k_max) <= 1
    sure = np.flatnonzero(first.fsc[: first.status.k_max] >= 0.99)
    assert len(sure) >= 3
    assert fsc(first.volume, second.volume)[sure].min() > 0.99
    shells = [BOX * PIXEL / s.resolution_angstrom for s in (first, second)]
    assert abs(shells[0] - shells[1]) < 3.5
    found = [fsc_between(truth, align_volumes(truth, s.volume, PIXEL).volume, PIXEL) for s in (first, second)]
    assert found[1].resolution_05_angstrom < 1.3 * found[0].resolution_05_angstrom


def test_a_step_moves_what_it_must_and_no_more(truth, device, memory):
    """Between two solutions of the map: a few arrays, the same for any number of images; and never a single value."""
    engine = Engine(replace(SETTINGS, update_images=10_000), BOX, PIXEL, CudaBackend(device), 1)
    first, *others = particles(truth, 450, size=150)
    engine.fold(first)
    # before the search settles, every step also solves for the map
    engine._starts[0]._progress.annealer.settled_at = 1
    engine.fold(others[0])  # takes the tables of a new band with it
    counts = []
    for batch in (others[1], others[1].select(np.arange(40))):
        memory.traffic.clear()
        engine.fold(batch)
        counts.append(dict(memory.traffic))
    assert counts[0] == counts[1]
    assert counts[0].keys() == {"upload", "download"}
    assert counts[0]["upload"] <= MOST_UPLOADS
    assert counts[0]["download"] <= MOST_DOWNLOADS


def test_each_step_is_the_step_of_the_cpu(truth, any_device):
    """Both take up the same state before every batch, so that differences cannot add up: poses and maps agree."""
    on_cpu = fresh(CpuBackend(2))
    for number, batch in enumerate(particles(truth, 1200)):
        if number in (1, 5, 9, 11):
            on_device = fresh(CudaBackend(any_device))
            on_device.restore(on_cpu.state())
            found, expected = on_device.fold(batch), on_cpu.fold(batch)
            same = np.abs(found.rotation - expected.rotation).max(axis=(1, 2)) < 1e-3
            assert same.mean() >= 0.97
            np.testing.assert_allclose(found.log_evidence[same], expected.log_evidence[same], rtol=0.02, atol=0.5)
            first, second = on_cpu.snapshot(), on_device.snapshot()
            assert fsc(first.volume, second.volume)[: first.status.k_max].min() > 0.99
        else:
            on_cpu.fold(batch)


def test_a_batch_in_pieces_gives_the_same_poses(truth, any_device):
    """Pieces as small as memory may make them; every image has its own random stream."""
    whole, pieces = CudaBackend(any_device), CudaBackend(any_device)
    pieces.chunk_images = 7
    results = [fresh(backend).fold(particles(truth, 100)[0]) for backend in (whole, pieces)]
    # atomics add in another order: a draw on a boundary may go the other way, and the first map differs by rounding
    same = np.abs(results[0].rotation - results[1].rotation).max(axis=(1, 2)) < 1e-3
    assert same.mean() > 0.95


def test_out_of_memory_halves_the_piece_and_goes_on(truth, device, memory):
    backend = CudaBackend(device)
    engine = fresh(backend)
    batch = particles(truth, 100)[0]
    engine.fold(batch)
    free_of_it = memory.peak
    memory.peak = memory.used
    memory.limit = memory.used + (free_of_it - memory.used) // 2
    result = engine.fold(batch)
    assert backend.chunk_images <= 50
    assert device.released >= 1
    assert np.isfinite(result.log_evidence).all()
    assert memory.peak <= memory.limit


@pytest.mark.gpu
def test_a_device_with_little_memory_folds_in_smaller_pieces(truth):
    """The same on a device: CuPy's own error, its pool and cuFFT's work areas."""
    try:
        device = open_device(memory_share=100e6 / open_device().total_bytes)
    except DeviceError as error:
        pytest.skip(f"no usable CUDA device: {error}")
    backend = CudaBackend(device)
    engine = Engine(replace(SETTINGS, direction_order=4, in_plane_angles=48), BOX, PIXEL, backend, 1)
    backend.chunk_images = 512  # more than fit, whatever was reserved
    result = engine.fold(particles(truth, 400, size=400)[0])
    assert backend.chunk_images < 400
    assert np.isfinite(result.log_evidence).all()


def test_no_room_for_one_image_is_an_error_that_says_so(device):
    backend = CudaBackend(device)

    def never_fits(start, stop):
        raise device.out_of_memory("out of memory allocating 99 bytes")

    with pytest.raises(DeviceError, match=r"not even one image.*99 bytes"):
        backend.run(never_fits, 10)


def test_pieces_follow_the_free_memory(device, memory):
    backend = CudaBackend(device)
    memory.limit = memory.used + 100_000_000
    backend.reserve(1_000_000)
    assert backend.chunk_images == 50  # half of it for the search
    seen = backend.run(lambda a, b: (a, b), 120)
    assert seen == [(0, 50), (50, 100), (100, 120)]
    assert backend.run(lambda a, b: (a, b), 0) == [(0, 0)]


def test_given_poses_give_the_map_of_the_cpu(truth, any_device):
    maps = []
    for backend in (CpuBackend(1), CudaBackend(any_device)):
        given = GivenPoses(SETTINGS, BOX, PIXEL, backend)
        for batch in particles(truth, 100):
            given.fold(batch)
        maps.append(given.snapshot().volume)
    assert np.abs(maps[0] - maps[1]).max() < 1e-4 * np.abs(maps[0]).max()


def test_a_state_goes_from_one_backend_to_the_other(truth, any_device):
    first = fresh(CpuBackend(1))
    data = particles(truth, 300)
    for batch in data[:2]:
        first.fold(batch)
    second = fresh(CudaBackend(any_device))
    second.restore(first.state())
    second.fold(data[2])
    assert second.status.particles_seen == 300
    third = fresh(CpuBackend(1))
    third.restore(second.state())
    assert np.array_equal(third.state().arrays["start0_map_full"], second.state().arrays["start0_map_full"])

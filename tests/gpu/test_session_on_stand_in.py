"""What a session does beside folding, on the stand-in and on a device: visits particles again, solves under priors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct import priors
from streamrecon.reconstruct.engine import Engine
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings
from tests.gpu.test_engine_on_stand_in import BOX, PIXEL, SETTINGS, fsc, particles
from tests.simulated import f1_atpase

KEPT = 60  # particles that are visited again
MOST_UPLOADS, MOST_DOWNLOADS = 26, 16  # of a visit around known poses; its images and old poses go to the device


@pytest.fixture(scope="module")
def truth():
    return f1_atpase(BOX, PIXEL)


def keeping(backend, **settings):
    return Engine(replace(SETTINGS, **settings), BOX, PIXEL, backend, 1, keep=True)


@pytest.fixture(scope="module")
def session(truth):
    """A session on the CPU that has settled, and what it handed out of its latest particles."""
    engine = keeping(CpuBackend(1))
    *_, last = [engine.fold(batch).kept for batch in particles(truth, 800)]
    return engine, last.take(np.arange(KEPT))


def restored(backend, engine, **settings):
    other = keeping(backend, **settings)
    other.restore(engine.state())
    return other


@pytest.mark.parametrize("everywhere", [False, True], ids=["around known poses", "searched"])
def test_a_revisit_is_that_of_the_cpu(session, any_device, memory, everywhere):
    """Poses, and the sums from which the old contributions were taken and to which the new ones were added."""
    engine, kept = session
    on_cpu, on_device = restored(CpuBackend(1), engine), restored(CudaBackend(any_device), engine)
    search = np.full(len(kept), everywhere)
    memory.traffic.clear()
    found, expected = on_device.revisit(kept, search), on_cpu.revisit(kept, search)
    assert memory.traffic["sync"] == 0
    same = np.abs(found.rotation - expected.rotation).max(axis=(1, 2)) < 1e-3
    assert same.mean() >= 0.97
    np.testing.assert_allclose(found.log_evidence[same], expected.log_evidence[same], rtol=0.02, atol=0.5)
    for half in ("a", "b"):
        one, other = (e.state().arrays[f"start0_accumulator_{half}"] for e in (on_cpu, on_device))
        assert np.abs(one - other).max() < 0.02 * np.abs(one).max()
    first, second = on_cpu.snapshot(), on_device.snapshot()
    assert fsc(first.volume, second.volume)[: first.status.k_max].min() > 0.99


def test_what_is_taken_out_is_what_was_put_in(session, any_device):
    """Visited again and again the sums hold each particle once: their weight stays that of one visit."""
    engine, kept = session
    on_device = restored(CudaBackend(any_device), engine, update_images=10_000)
    weights = []
    for _ in range(3):
        result = on_device.revisit(kept, np.zeros(len(kept), bool))
        kept = result.kept
        weights.append(sum(on_device.state().arrays[f"start0_accumulator_{h}"][..., 2].sum(dtype=float) for h in "ab"))
    assert weights[2] == pytest.approx(weights[0], rel=0.02)
    assert result.kept is not None


def test_a_revisit_moves_what_it_must_and_no_more(session, device, memory):
    """As many arrays for any number of particles, and never a single value."""
    engine, kept = session
    on_device = restored(CudaBackend(device), engine, update_images=10_000)
    nowhere = np.zeros(len(kept), bool)
    kept = on_device.revisit(kept, nowhere).kept  # takes the tables of the band with it
    counts = []
    for rows in (np.arange(KEPT), np.arange(20)):
        part = kept.take(rows)
        memory.traffic.clear()
        on_device.revisit(part, nowhere[rows])
        counts.append(dict(memory.traffic))
    assert counts[0] == counts[1]
    assert counts[0].keys() == {"upload", "download"}
    assert counts[0]["upload"] <= MOST_UPLOADS
    assert counts[0]["download"] <= MOST_DOWNLOADS


def test_kept_images_are_those_that_were_used(truth, device, memory):
    """Encoded on the device: the half-precision numbers come to the host, and nothing goes back for it."""
    engine = keeping(CudaBackend(device))
    batch = particles(truth, 100)[0]
    kept = engine.fold(batch).kept
    other = keeping(CpuBackend(1)).fold(batch).kept
    np.testing.assert_array_equal(kept.images.exponent, other.images.exponent)
    # transforms differ by rounding, and so does what they are rounded to: one unit in the last place at most
    apart = np.abs(kept.images.decode() - other.images.decode())
    assert apart.max() <= 2.0**-10 * np.abs(other.images.decode()).max()
    assert np.mean(apart > 0) < 0.01


def test_a_step_of_several_optics_groups_is_that_of_the_cpu(truth, any_device, memory):
    """Each group's amplitude and fall are in its CTF, and are measured at the poses found."""
    settings = MicroscopeSettings(
        pixel_size_angstrom=PIXEL, particles_per_micrograph=100, snr=4.0, n_optics_groups=2, seed=3
    )
    microscope = Microscope(truth, settings)
    taken = [microscope.micrograph(number, f"stack_{number}", f"mic_{number}", 100) for number in range(7)]
    *before, last = [ParticleBatch(t.images, t.table, tuple(t.table.identities())) for t in taken]
    on_cpu = keeping(CpuBackend(1))
    for batch in before:
        on_cpu.fold(batch)
    on_device = restored(CudaBackend(any_device), on_cpu)
    memory.traffic.clear()
    found, expected = on_device.fold(last), on_cpu.fold(last)
    assert memory.traffic["sync"] == 0
    same = np.abs(found.rotation - expected.rotation).max(axis=(1, 2)) < 1e-3
    assert same.mean() >= 0.97
    one, other = (engine.state().arrays for engine in (on_cpu, on_device))
    learnt = [name for name in one if "noise" in name or "envelope" in name]
    assert learnt
    for name in learnt:
        np.testing.assert_allclose(other[name], one[name], rtol=0.02, atol=0.02 * np.abs(one[name]).max())


@pytest.mark.parametrize(
    "prior",
    [
        {"prior": "sparse"},
        {"prior": "car"},
        {"non_negative": True, "solvent_flattening": True},
    ],
    ids=["sparse", "car", "non-negative, flat solvent"],
)
def test_maps_under_priors_are_those_of_the_cpu(session, any_device, prior):
    engine, _ = session
    state = engine.state()
    maps = []
    for backend in (CpuBackend(1), CudaBackend(any_device)):
        other = keeping(backend, **prior)
        other.restore(state)
        solved = other._starts[0]._map.halves.peek(10)
        maps.append(backend.to_host(solved.volume))
    assert np.abs(maps[0]).max() > 0
    assert np.abs(maps[0] - maps[1]).max() < 1e-3 * np.abs(maps[0]).max()


@pytest.mark.parametrize("non_negative", [True, False])
def test_a_constrained_map_is_that_of_the_cpu(any_device, rng, non_negative):
    volume = rng.normal(0.2, 1.0, (16, 16, 16)).astype(np.float32)
    curvature = rng.uniform(0.5, 2.0, 9)
    found = []
    for backend in (CpuBackend(1), CudaBackend(any_device)):
        solved = priors.constrained(backend, backend.to_device(volume), curvature, 4e3, non_negative=non_negative)
        found.append(backend.to_host(solved))
    assert 0.05 < np.mean(found[0] == 0) < 0.95
    np.testing.assert_allclose(found[1], found[0], atol=1e-4 * np.abs(found[0]).max())

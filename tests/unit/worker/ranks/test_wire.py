"""What ranks are told comes out as it went in."""

from dataclasses import fields, is_dataclass, replace

import numpy as np

from streamrecon.compute.cpu import CpuBackend
from streamrecon.inference.compact import encode
from streamrecon.particles import ParticleTable
from streamrecon.reconstruct.kept import Contribution, KeptParticles
from streamrecon.reconstruct.results import EngineState
from streamrecon.worker.ranks.memory import SharedMemory
from streamrecon.worker.ranks.wire import batch_from_wire, batch_to_wire, flat, kept_from_wire, state_from_wire
from tests.simulated import batches, f1_atpase


def through(words, arrays):
    """As it goes through shared memory."""
    memory = SharedMemory.create("test")
    return memory.read(memory.write(words, arrays))


def assert_equal(found, expected):
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if is_dataclass(other):
            assert_equal(one, other)
        elif isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other, field.name


def test_a_batch(rng):
    ((batch, _),) = batches(f1_atpase(32, 6.4), 6.4, 6, 1.0, seed=2, size=6)
    assert_equal(batch_from_wire(*through(*batch_to_wire(batch))), batch)
    # of particles without CTF, poses and micrographs; an optics group that no row uses keeps its place
    groups = (*batch.table.optics_groups, replace(batch.table.optics_groups[0], name="unused"))
    nothing = {"rotation": None, "shift_angstrom": None, "micrograph_names": None}
    table = replace(batch.table, optics_groups=groups[::-1], defocus_u_angstrom=np.full(6, np.nan, "f4"), **nothing)
    assert isinstance(table, ParticleTable)
    bare = replace(batch, table=table)
    assert_equal(batch_from_wire(*through(*batch_to_wire(bare))), bare)


def test_kept_particles(rng):
    n, k = 4, 3
    contribution = Contribution(
        quaternion=rng.normal(size=(n, k, 4)).astype("f4"),
        shift=rng.normal(size=(n, k, 2)).astype("f4"),
        weight=rng.random((n, k), "f4"),
        inverse_noise=rng.random((n, 9), "f4"),
        amplitude=rng.random(n, "f4"),
        b_factor=rng.random(n, "f4"),
        level=rng.random(n),
        epoch=np.arange(n) << 32,
        frame=np.arange(n),
    )
    images, _, _ = encode(CpuBackend(1), *rng.normal(size=(2, n, 50)).astype("f4"), rng.normal(size=n))
    kept = KeptParticles(
        images,
        ctf_coefficients=rng.random((n, 5), "f4"),
        frequency_step=rng.random(n, "f4"),
        group=np.zeros(n, np.int32),
        half=np.array([0, 0, 1, 1], np.int8),
        contribution=contribution,
    )
    assert_equal(kept_from_wire(through({}, flat(kept))[1]), kept)


def test_a_state_is_copied():
    state = EngineState({"a": np.arange(3.0), "b": np.zeros((0, 4))}, {"x": 1, "y": float("nan"), "z": "text"})
    words, arrays = through({"scalars": dict(state.scalars)}, state.arrays)
    found = state_from_wire(words, arrays)
    assert found.scalars.keys() == state.scalars.keys()
    assert repr(found.scalars) == repr(dict(state.scalars))
    arrays["a"][:] = 7
    np.testing.assert_array_equal(found.arrays["a"], [0, 1, 2])
    assert found.arrays["b"].shape == (0, 4)

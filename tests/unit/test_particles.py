"""Half-sets go by a particle's identity, and by nothing else."""

import hashlib
import itertools

import numpy as np
import pytest

from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleBatch, ParticleTable, half_of


def make_batch(n):
    table = ParticleTable(
        optics_groups=(OpticsGroup("one", 300.0, 2.7, 0.1, 3.0, 4),),
        stack_names=("s.mrcs",),
        optics_group_index=np.zeros(n, np.int32),
        stack_number=np.zeros(n, np.int32),
        stack_index=np.arange(n, dtype=np.int32),
        defocus_u_angstrom=np.full(n, 15000, np.float32),
        defocus_v_angstrom=np.full(n, 15000, np.float32),
        astigmatism_angle_degrees=np.zeros(n, np.float32),
        phase_shift_degrees=np.zeros(n, np.float32),
    )
    return ParticleBatch(np.zeros((n, 4, 4), np.float32), table, tuple(table.identities()))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_particle_keeps_its_half_in_whatever_batch_and_order_it_comes(seed):
    batch = make_batch(200)
    half = dict(zip(batch.identities, batch.half.tolist(), strict=True))
    again = batch.select(np.random.default_rng(seed).permutation(200)[: 37 * seed])
    assert [half[i] for i in again.identities] == again.half.tolist()


def test_the_half_is_a_fair_coin_that_falls_the_same_way_in_every_process():
    identities = [f"{i:06d}@mic_{i % 7}.mrcs" for i in range(10_000)]
    halves = [half_of(i) for i in identities]
    # Python's own hash() would differ from one process to the next
    assert halves == [hashlib.blake2b(i.encode(), digest_size=1).digest()[0] % 2 for i in identities]
    # six standard deviations
    assert abs(sum(halves) - 5000) < 300
    neighbours = sum(a == b for a, b in itertools.pairwise(halves))
    assert abs(neighbours - 5000) < 300

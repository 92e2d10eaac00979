"""The scaling benchmark looks at an engine that is where it says it is, and at particles that all count."""

import numpy as np

from benchmarks import scale
from benchmarks.common import batches, f1_atpase
from streamrecon.compute.cpu import CpuBackend
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings


def test_an_engine_is_brought_to_refinement():
    specimen = f1_atpase(32)
    settings = EngineSettings(starts=1, threads=1, update_images=10**6)
    engine = Engine(settings, 32, specimen.pixel_size_angstrom, CpuBackend(1), seed=1, keep=True)
    ((batch, _),) = batches(specimen, 10, 0.1, seed=1, size=10)
    engine.fold(batch)
    engine.restore(scale._refining(engine.state(), specimen.volume, 14))
    result = engine.fold(batch)
    status = engine.status
    assert (status.stage, status.fsc_kind, status.k_max) == ("refining", "gold_standard", 14)
    assert result.kept is not None
    engine.revisit(result.kept, np.zeros(10, bool))
    assert engine.status.image_visits == 30


def test_replayed_particles_are_all_new():
    specimen = f1_atpase(32)
    pool = [batch for batch, _ in batches(specimen, 20, 0.1, seed=1, size=10)]
    names = [name for turn in range(3) for batch in scale._replayed(pool, turn) for name in batch.identities]
    assert len(set(names)) == len(names) == 60


def test_a_large_session_s_map_is_solved_more_seldom():
    """Every 300 images, or every twentieth of what is in the sums."""
    assert scale._images_between_updates() == scale._HELD // 20

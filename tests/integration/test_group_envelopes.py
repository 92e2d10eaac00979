"""Two optics groups, one of them blurred: the blur is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.assess.symmetry_trust import trusted_symmetry
from streamrecon.compute.cpu import CpuBackend
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings
from tests.simulated import f1_atpase

pytestmark = pytest.mark.slow
BOX, PIXEL = 48, 204.8 / 48
B_FACTOR = 300.0
PARTICLES = 3600


def stream(truth):
    """Yield batches of both groups in turn; the same seed, so that nothing but the blur tells them apart."""
    common = {"pixel_size_angstrom": PIXEL, "particles_per_micrograph": 100, "snr": 0.2, "seed": 3}
    microscopes = [Microscope(truth, MicroscopeSettings(**common, envelope_b_factor=b)) for b in (0.0, B_FACTOR)]
    for number in range(PARTICLES // 100):
        taken = microscopes[number % 2].micrograph(number, f"stack_{number}", f"mic_{number}", 100)
        group = replace(taken.table.optics_groups[0], name=("sharp", "blurred")[number % 2])
        table = replace(taken.table, optics_groups=(group,))
        yield ParticleBatch(taken.images, table, tuple(table.identities()))


def reconstruct(truth):
    settings = EngineSettings(starts=1, settle_images=1000, symmetry="auto")
    engine = Engine(settings, BOX, PIXEL, CpuBackend(2), 2, find_symmetry=trusted_symmetry)
    for batch in stream(truth):
        engine.fold(batch)
    snapshot = engine.snapshot()
    aligned = align_volumes(truth, snapshot.volume, PIXEL)
    return snapshot, fsc_between(truth, aligned.volume, PIXEL).fsc


def test_the_blur_of_a_group_is_measured():
    """To a third: how much better the map gets for it takes more particles than a test has (benchmarks.envelopes)."""
    truth = f1_atpase(BOX, PIXEL)
    snapshot, fsc = reconstruct(truth)
    assert snapshot.status.symmetry == "C1"  # what looks sixfold at low resolution is not imposed
    assert snapshot.status.stage in ("settled", "refining")
    sharp, blurred = snapshot.optics_groups
    assert (sharp.name, blurred.name) == ("sharp", "blurred")
    assert sharp.b_factor_angstrom2 == 0.0
    # other seeds and roundings: 209 to 288
    assert 150.0 < blurred.b_factor_angstrom2 < 400.0
    assert fsc[3:12].min() > 0.5

"""Short versions of the fault campaign; `make faults` runs the long ones."""

import os
import time

import pytest

from tests.faults.damage import run_damage
from tests.faults.disk import run_full_disk, small_disk
from tests.faults.kills import VICTIMS, run_kills
from tests.faults.peers import SOCKETS, run_peers
from tests.faults.soak import PARTICLES_A_STACK, run_soak
from tests.faults.strangers import run_strangers
from tests.faults.subscribers import run_subscribers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")]


def test_killed_again_and_again_it_ends_with_the_map_of_an_uninterrupted_run(tmp_path):
    # enough work for each kill that some of it is folded and not yet in a checkpoint
    report = run_kills(tmp_path, 6, seed=5, micrographs_a_kill=4)
    assert report.kills.total() == 6
    assert report.kills.keys() <= set(VICTIMS)
    assert len(report.kills) >= 2
    assert report.resumed > 0
    # the same batches in the same order: more than the FSC that run_kills asks for
    assert all(report.bitwise.values()), report.bitwise


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_waited_for(tmp_path):
    try:
        with small_disk(tmp_path / "probe"):
            pass
    except PermissionError as error:
        pytest.skip(f"a small disk cannot be mounted: {error}")
    report = run_full_disk(tmp_path / "session", "both", full_seconds=2.0)
    assert report.folded_before < report.particles


def test_damaged_checkpoints_and_ledgers_are_found(tmp_path):
    report = run_damage(tmp_path, flips=100, cuts=20)
    assert report.flips_of_manifest >= 50
    assert "ledger.sqlite" in report.refusal


def test_hostile_peers_on_every_socket(tmp_path):
    report = run_peers(tmp_path, seconds=5.0)
    assert {name.split(":")[0] for name in report.attacks} == set(SOCKETS)
    assert report.dropped > 0


def test_strangers_are_refused_counted_and_logged(tmp_path):
    report = run_strangers(tmp_path, rounds=1)
    # of five doors each is open to one of three keys
    assert len(report.knocked) == 5 * 4
    assert report.replays_counted == report.replays == 4


def test_subscribers_that_never_read(tmp_path):
    report = run_subscribers(tmp_path, subscribers=10, turns=1, turn_particles=200)
    assert len(report.alone) == len(report.watched) == 1


def test_a_short_soak_loses_no_descriptor_and_no_particle(tmp_path):
    began = time.monotonic()
    report = run_soak(tmp_path, seconds=8.0)
    assert report.particles == report.stacks * PARTICLES_A_STACK > 0
    # the first particles lie there before the daemon runs, and wait while its kernels are compiled
    assert 0 <= max(report.lag_seconds) < time.monotonic() - began

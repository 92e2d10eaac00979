"""Short versions of the fault campaign; `make faults` runs the long ones."""

import os

import numpy as np
import pytest

from tests.faults.damage import run_damage
from tests.faults.disk import run_full_disk, small_disk
from tests.faults.kills import VICTIMS, run_kills
from tests.faults.peers import SOCKETS, run_peers
from tests.faults.soak import PARTICLES_A_STACK, SoakReport, count_exported, run_soak
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
    report = run_damage(tmp_path, flips=100, cuts=8)
    assert report.flips_of_manifest >= 37
    assert report.flips_of_current == 13
    assert report.flips_of_tables > 0
    assert "ledger.sqlite" in report.refusal


def test_hostile_peers_on_every_socket(tmp_path):
    report = run_peers(tmp_path, seconds=5.0)
    assert {name.split(":")[0] for name in report.attacks} == set(SOCKETS)
    assert report.dropped > 0
    assert report.attacks["feed: asks for everything and does not read"] > 0
    assert report.memory_growth_bytes.keys() > {"run", "ingest", "worker", "page"}


def test_strangers_are_refused_counted_and_logged(tmp_path):
    report = run_strangers(tmp_path, rounds=1)
    # of five doors each is open to one of three keys
    assert len(report.knocked) == 5 * 4
    assert report.replays_counted == report.replays == 4


def test_subscribers_that_never_read(tmp_path):
    report = run_subscribers(tmp_path, subscribers=10, turns=1, turn_particles=200, warm_up_particles=200)
    assert len(report.ratios(0)) == 1


def test_a_short_soak_loses_no_descriptor_and_no_particle(tmp_path):
    report = run_soak(tmp_path, seconds=8.0)
    assert report.particles == report.stacks * PARTICLES_A_STACK > 0
    assert set(report.own_mib) == set(report.descriptors) == {"supervisor", "page", "ingest", "worker"}
    assert 0.0 <= report.others_share <= 1.0
    assert set(report.restart_seconds) == {"map", "new", "known"}
    assert 0 < report.restart_seconds["map"] <= report.restart_seconds["new"]


class TestWhatASoakMayNotDo:
    def soak(self, **changes):
        """Two hours at a hundred particles a second, a sample every twenty seconds."""
        at = np.arange(0.0, 7200.0, 20.0)
        flat = {
            "seconds": 7200.0,
            "at": at.tolist(),
            "folded": (100 * at).astype(int).tolist(),
            "own_mib": {"ingest": (90.0 + at / 7200.0 * 10.0).tolist()},
            "descriptors": {"ingest": [20 + i % 3 for i in range(len(at))]},
            "lag_seconds": [20.0] * len(at),
        }
        return SoakReport(**flat | changes)

    def test_what_is_known_of_each_stack_may_be_kept(self):
        self.soak().check()
        assert self.soak().bytes_a_stack("ingest") == pytest.approx(10 * 2**20 / 7200.0)

    def test_no_more_than_that(self):
        grows = np.linspace(90.0, 190.0, 360).tolist()
        with pytest.raises(AssertionError, match="ingest grows"):
            self.soak(own_mib={"ingest": grows}).check()
        self.soak(own_mib={"ingest": grows}, seconds=600.0).check()  # too short to say

    def test_descriptors_come_back(self):
        with pytest.raises(AssertionError, match="ingest"):
            self.soak(descriptors={"ingest": [20 + i // 20 for i in range(360)]}).check()

    def test_the_map_keeps_up_in_the_end(self):
        stood_still = [20.0] * 200 + [400.0] * 40 + [20.0] * 120
        self.soak(lag_seconds=stood_still).check()
        with pytest.raises(AssertionError, match="fell behind"):
            self.soak(lag_seconds=[20.0] * 300 + [400.0] * 60).check()

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda rows: rows, ""),
            (lambda rows: rows[1:], "not in the map"),
            (lambda rows: rows + rows[:1], "in the map more than once"),
        ],
    )
    def test_no_particle_is_missing_or_there_twice(self, tmp_path, change, found):
        rows = [
            f"1.5 {i + 1:06d}@Extract/soak_{stack:06d}.mrcs 2" for stack in range(3) for i in range(PARTICLES_A_STACK)
        ]
        (tmp_path / "p.star").write_text("\n".join(["data_particles", "loop_", "_rlnImageName #2", *change(rows)]))
        if found:
            with pytest.raises(AssertionError, match=f"1 of 300 are {found}"):
                count_exported(tmp_path / "p.star", 3)
        else:
            assert count_exported(tmp_path / "p.star", 3) == 300

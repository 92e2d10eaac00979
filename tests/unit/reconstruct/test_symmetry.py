"""What is imposed, taken back and imposed again: decisions on made-up evidence."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.geometry.orientation import Orientation
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.symmetry import Symmetry
from streamrecon.reconstruct.symmetry_doubts import SymmetryDoubts

GEOMETRY = ImageGeometry(32, 3.0, 12.0, 2.0)
MAP = SimpleNamespace(half_a=np.zeros((16,) * 3, np.float32), half_b=np.zeros((16,) * 3, np.float32))


class Finder:
    """Finds what it is told to, of maps that hold so much of it."""

    def __init__(self, group="C3", held=0.9):
        self.group, self.held, self.asked_for = group, held, []

    def __call__(self, half_a, half_b, voxel_size_angstrom, asked, *, at_least=0.0):
        self.asked_for.append(at_least)
        assert voxel_size_angstrom == 6.0
        if self.held is None:
            return None, "too coarse"
        if self.held < at_least:
            return Orientation(), "not enough"
        return Orientation(self.group, np.eye(3), np.array([0.5, 0.0, 1.0])), "found"


def imposed(asked, finder):
    symmetry = Symmetry(asked, finder)
    assert symmetry.look(CpuBackend(1), MAP, GEOMETRY, 10)
    np.testing.assert_allclose(symmetry.orientation.center, [1.0, 0.0, 2.0])  # pixels of the images
    return symmetry


def say(doubts, gain, log_likelihood=100.0, n=1200, spread=1.0):
    rng = np.random.default_rng(0)
    for _ in range(n // 100):
        doubts.note(np.full(100, log_likelihood), rng.normal(gain, spread, 100))


def test_a_map_too_coarse_to_say_is_asked_again_with_the_next_shell():
    finder = Finder(held=None)
    symmetry = Symmetry("auto", finder)
    assert not symmetry.look(CpuBackend(1), MAP, GEOMETRY, 14)
    assert symmetry.reason == "too coarse"
    assert symmetry.due(15)
    finder.held = 0.9
    assert symmetry.look(CpuBackend(1), MAP, GEOMETRY, 15)


def test_one_that_was_not_found_is_looked_for_again_with_so_many_more_shells():
    symmetry = Symmetry("auto", Finder(group="C1"))
    assert not symmetry.look(CpuBackend(1), MAP, GEOMETRY, 14)
    assert not symmetry.due(16)
    assert symmetry.due(17)


@pytest.mark.parametrize(
    ("gain", "log_likelihood", "spread", "proven"),
    [
        (10.0, 100.0, 1.0, True),
        (1.5, 100.0, 1.0, True),
        (0.5, 100.0, 1.0, False),  # of too little consequence
        (-2.0, 100.0, 1.0, False),
        (0.3, 1.0, 10.0, False),  # may be chance
    ],
)
def test_what_proves_that_a_symmetry_is_not_there(gain, log_likelihood, spread, proven):
    doubts = SymmetryDoubts()
    say(doubts, gain, log_likelihood, spread=spread)
    assert doubts.proven == proven
    assert doubts.dispelled == (doubts.gain <= 0)
    assert doubts.mean_gain == pytest.approx(gain, abs=spread / 5)


def test_nothing_is_said_of_few_images_and_old_ones_are_forgotten():
    doubts = SymmetryDoubts()
    say(doubts, 50.0, n=900)
    assert not doubts.proven
    assert math.isnan(doubts.mean_gain)
    say(doubts, 50.0, n=100)
    assert doubts.proven
    say(doubts, -3.0, n=8000)
    assert doubts.dispelled
    assert doubts.images == 1100


def test_one_that_was_found_is_taken_back_and_comes_again_once_on_stronger_evidence():
    finder = Finder()
    symmetry = imposed("auto", finder)
    assert not symmetry.judge(10)
    say(symmetry.doubts, 8.0)
    assert symmetry.judge(11)
    assert symmetry.orientation.group == "C1"
    assert symmetry.taken_back == "C3"
    assert "C3 is taken back" in symmetry.reason
    assert "8.0 nats" in symmetry.reason
    assert math.isnan(symmetry.doubts.mean_gain)
    # not before the map has grown finer, and not for what was enough before
    assert not symmetry.due(12)
    assert symmetry.due(13)
    assert not symmetry.look(CpuBackend(1), MAP, GEOMETRY, 13)
    finder.held = 0.97
    assert symmetry.look(CpuBackend(1), MAP, GEOMETRY, 16)
    assert finder.asked_for == [0.0, 0.95, 0.95]
    say(symmetry.doubts, 8.0)
    assert symmetry.judge(16)
    assert not symmetry.due(10**6)


def test_one_that_was_asked_for_stays_and_it_is_said():
    symmetry = imposed("C3", Finder())
    say(symmetry.doubts, 8.0)
    assert not symmetry.judge(11)
    assert symmetry.contradicted
    assert symmetry.orientation.group == "C3"
    assert "found; but new images contradict it, a map without it gains 8.0 nats" in symmetry.reason
    # until they speak for it
    say(symmetry.doubts, 0.5, n=9000)
    symmetry.judge(11)
    assert symmetry.contradicted
    say(symmetry.doubts, -0.5, n=9000)
    symmetry.judge(11)
    assert not symmetry.contradicted
    assert symmetry.reason == "found"


@pytest.mark.parametrize("asked", ["auto", "C3"])
def test_a_checkpoint_takes_it_all_along(asked):
    symmetry = imposed(asked, Finder(held=0.97))
    say(symmetry.doubts, 8.0)
    for _ in range(2):
        arrays, scalars = symmetry.state()
        again = Symmetry(asked, Finder(held=0.97))
        again.restore(arrays, scalars)
        for one in (symmetry, again):
            one.judge(11)
        for name in ("reason", "contradicted", "taken_back", "doubts", "tried_shells"):
            assert getattr(again, name) == getattr(symmetry, name)
        assert again.orientation.group == symmetry.orientation.group
        if asked == "auto" and symmetry.due(13):
            for one in (symmetry, again):
                one.look(CpuBackend(1), MAP, GEOMETRY, 13)
                say(one.doubts, 8.0)
    assert again.due(100) == symmetry.due(100)


def test_a_fresh_start_knows_what_was_taken_back():
    symmetry = imposed("auto", Finder())
    say(symmetry.doubts, 8.0)
    symmetry.judge(11)
    fresh = Symmetry("auto", Finder())
    fresh.learn_from(symmetry)
    assert fresh.taken_back == "C3"
    assert not fresh.look(CpuBackend(1), MAP, GEOMETRY, 20)

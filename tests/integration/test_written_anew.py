"""A stack written anew under its name: whose particles its images are; by counts and by pixels."""

import shutil

import numpy as np
import pytest

from streamrecon.ingest.fingerprint import image_digests
from streamrecon.io import write_stack
from tests.integration.copy_helpers import assert_once, delivered, describe, particles, put
from tests.integration.ingest_helpers import PIXEL_SIZE, images


class TestWrittenAnew:
    def test_its_particles_are_what_they_were(self, root, bench):
        put(root / "good.mrcs", images(5))
        bench.look()
        assert bench.ready() == 5
        put(root / "good.mrcs", images(6, seed=1))
        bench.look()
        assert bench.ready() == particles(bench) == 6
        found, _ = delivered(bench)
        assert_once(found, images(6, seed=1))

    def test_and_again_and_back(self, root, bench):
        for seed in (0, 1, 2, 1, 0):
            put(root / "good.mrcs", images(5, seed=seed))
            bench.look()
            assert bench.ready() == particles(bench) == 5
        found, _ = delivered(bench)
        assert_once(found, images(5))

    @pytest.mark.parametrize("named", [True, False])
    def test_while_a_copy_of_the_old_lies_elsewhere(self, root, bench, named):
        put(root / "good.mrcs", images(5))
        bench.look()
        assert bench.ready() == 5
        shutil.copy(root / "good.mrcs", root / "copy.mrcs")
        if named:
            describe(root / "copy.mrcs", 5)
        put(root / "good.mrcs", images(5, seed=1))
        bench.look()
        assert bench.ready() == particles(bench) == 10
        found, _ = delivered(bench)
        assert_once(found, images(5), images(5, seed=1))
        identities = {i for (i,) in bench.ledger._connection.execute("SELECT identity FROM particles")}
        assert "000001@good.mrcs (2)" in identities

    def test_while_one_that_nobody_names_was_there_before(self, root, bench):
        write_stack(root / "unnamed.mrcs", images(5), PIXEL_SIZE)
        bench.look()
        put(root / "good.mrcs", images(5))
        bench.look()
        put(root / "good.mrcs", images(5, seed=1))
        bench.look()
        assert bench.ready() == particles(bench) == 10
        found, _ = delivered(bench)
        assert_once(found, images(5), images(5, seed=1))

    def test_with_a_pick_more_in_the_middle(self, root, bench):
        old = images(5)
        put(root / "good.mrcs", old)
        bench.look()
        assert bench.ready() == 5
        pixels = np.concatenate([old[:2], images(1, seed=1), old[2:]])
        put(root / "good.mrcs", pixels)
        bench.look()
        assert bench.ready() == particles(bench) == 6
        found, _ = delivered(bench)
        assert_once(found, pixels)

    def test_with_one_new_image_twice(self, root, bench):
        put(root / "good.mrcs", images(2))
        bench.look()
        new = images(1, seed=1)
        put(root / "good.mrcs", np.concatenate([new, new]))
        bench.look()
        query = "SELECT DISTINCT particle FROM places WHERE image = ?"
        assert len(bench.ledger._connection.execute(query, image_digests(new)).fetchall()) == 1

    @pytest.mark.parametrize(("name", "other"), [("a.mrcs", "b.mrcs"), ("b.mrcs", "a.mrcs")])
    def test_while_another_that_keeps_some_of_its_images_is_written_anew(self, root, bench, name, other):
        """Whichever is looked at first."""
        old = images(5)
        put(root / name, old)
        put(root / other, np.concatenate([old, images(3, seed=2)]))
        bench.look()
        assert particles(bench) == 8
        put(root / name, images(5, seed=1))
        put(root / other, old[:2])
        bench.look()
        assert particles(bench) == 10  # two of the old images are there still, and not written over
        known = bench.ledger.contents.particles_of(image_digests(np.concatenate([old[:2], images(5, seed=1)])))
        assert len({k.particle for k in known.values()}) == 7

    @pytest.mark.parametrize(("name", "other"), [("a.mrcs", "b.mrcs"), ("b.mrcs", "a.mrcs")])
    def test_what_has_its_images_now_is_looked_at_first(self, root, bench, name, other):
        """However little time there is at each step, and whichever comes first in the scan."""
        put(root / name, images(5))
        bench.look()
        (root / name).rename(root / other)  # no manifest names it
        put(root / name, images(5, seed=1))
        bench.look(40, budget_seconds=0.0)
        assert bench.ready() == particles(bench) == 10
        found, _ = delivered(bench)
        assert_once(found, images(5), images(5, seed=1))

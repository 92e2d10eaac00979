"""Stacks written, renamed, swapped, copied, grown, cut, deleted in any order: an image counts but once."""

import itertools
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from streamrecon.ingest.delivery import Delivery
from streamrecon.ingest.fingerprint import image_digests
from streamrecon.io import write_stack
from tests.integration.ingest_helpers import PIXEL_SIZE, Bench, all_rows, images, star_text

# no name is that of two files: a STAR whose stack is away means any other of that name
NAMES = ("a.mrcs", "b.mrcs", "c.mrcs", "sub/d.mrcs", "sub/e.mrcs")
FEW = 40
# the few are the same at every run; to search for more, ask for thousands
EXAMPLES = int(os.environ.get("STREAMRECON_COPIES_EXAMPLES", str(FEW)))
IMAGE_OF = {}  # pixels -> image


@cache
def picture(image):
    return images(1, seed=image)[0]


@cache
def digest(image):
    return image_digests(picture(image)[np.newaxis])[0]


class CopyMachine(RuleBasedStateMachine):
    """A folder, and what was put into it. The model knows which image, a number, lies in which section of which file.

    Of the ledger it asks only which particle each image is; what was delivered is told by its pixels.
    """

    def __init__(self):
        super().__init__()
        self.cleanup = ExitStack()
        self.folder = Path(self.cleanup.enter_context(tempfile.TemporaryDirectory()))
        self.root = self.folder / "in"
        (self.root / "sub").mkdir(parents=True)
        self.clock = itertools.count(1_700_000_000)
        self.new_images = itertools.count()
        self.at = {}  # name -> images of the file
        self.stamp = {}  # name -> when it, or its STAR, was changed
        self.rows = {}  # name -> how many images its STAR names
        self.lain = defaultdict(set)  # image -> (name, section) where it has ever been
        self.looked = 0  # when ingest had last come to an end
        self.particle = {}  # image -> particle, of those in the ledger that were not set aside
        self.folded = Counter()  # image -> how often it was delivered and folded
        self.bench = None
        self.restart()

    def teardown(self):
        self.bench.ledger.close()
        self.cleanup.close()

    # What is done to the folder

    @rule(data=st.data(), n=st.integers(0, 9), old=st.integers(0, 4))
    def write(self, data, n, old):
        """Under any name, free or not: new images, and some that were there before, in any order."""
        pixels = [next(self.new_images) for _ in range(n)]
        if self.lain and old:
            pixels += data.draw(st.lists(st.sampled_from(sorted(self.lain)), max_size=old))
        if pixels:
            self.put(data.draw(st.sampled_from(NAMES)), data.draw(st.permutations(pixels)))

    @precondition(lambda self: self.at)
    @rule(data=st.data(), k=st.integers(1, 9))
    def grow(self, data, k):
        name = self.some_file(data)
        self.put(name, [*self.at[name], *(next(self.new_images) for _ in range(k))])

    @precondition(lambda self: self.at)
    @rule(data=st.data())
    def cut(self, data):
        """As a copy is that is not finished."""
        name = self.some_file(data)
        self.put(name, self.at[name][: data.draw(st.integers(1, len(self.at[name])))])

    @precondition(lambda self: self.at)
    @rule(data=st.data(), star=st.sampled_from(("new", "both", "old")))
    def rename(self, data, star):
        """Onto another name, free or not."""
        name, other = self.some_file(data), data.draw(st.sampled_from(NAMES))
        if name != other:
            (self.root / name).rename(self.root / other)
            self.lies(other, self.at.pop(name))
            if star == "new":
                self.undescribe(name)
            if star != "old":
                self.describe(other)

    @precondition(lambda self: len(self.at) > 1)
    @rule(data=st.data(), described=st.booleans())
    def swap(self, data, described):
        one, two = data.draw(st.permutations(sorted(self.at)))[:2]
        (self.root / one).rename(self.root / ".aside")
        (self.root / two).rename(self.root / one)
        (self.root / ".aside").rename(self.root / two)
        first, second = self.at[one], self.at[two]
        self.lies(one, second)
        self.lies(two, first)
        if described:
            self.describe(one)
            self.describe(two)

    @precondition(lambda self: self.at)
    @rule(data=st.data(), described=st.booleans(), keeps_time=st.booleans())
    def copy(self, data, described, keeps_time):
        """Onto another name, free or not."""
        name, other = self.some_file(data), data.draw(st.sampled_from(NAMES))
        if name != other:
            (self.root / other).unlink(missing_ok=True)
            shutil.copy2(self.root / name, self.root / other)
            if not keeps_time:
                self.touch(self.root / other)
            self.lies(other, self.at[name])
            if described:
                self.describe(other)

    @precondition(lambda self: self.at)
    @rule(data=st.data(), star_too=st.booleans())
    def delete(self, data, star_too):
        name = self.some_file(data)
        (self.root / name).unlink()
        del self.at[name]
        if star_too:
            self.undescribe(name)

    # What ingest and a worker do

    @rule()
    def restart(self):
        if self.bench is not None:
            self.bench.ledger.close()
        self.bench = Bench(self.root, self.folder / "ledger.sqlite", settle=1.0, orphan=1e9)

    @rule(rounds=st.integers(1, 3), hurried=st.booleans())
    def glance(self, rounds, hurried):
        """It does not come to an end before something else happens; hurried, it examines one file at a time."""
        for _ in range(rounds):
            self.bench.look(rounds=1, budget_seconds=0.0 if hurried else 60.0)
            self.check_particles()

    @rule()
    def look(self):
        """It scans until nothing changes any more."""
        self.glance(8, hurried=False)
        self.check_complete()
        self.looked = next(self.clock)

    @rule(data=st.data())
    def fold(self, data):
        """A worker takes what there is, and acknowledges some of it; what cannot be read is set aside."""
        self.check_particles()
        ledger, delivery = self.bench.ledger, Delivery(self.bench.ledger, self.root)
        self.bench.batcher.make(self.bench.now, flush=True)
        while (batch := ledger.batches.lease_next("worker")) is not None:
            message, pixels, bad = delivery.prepare(batch, by_reference=False)
            if bad:
                ledger.batches.withdraw(batch.batch_id, bad)
                self.bench.batcher.make(self.bench.now, flush=True)
                continue
            delivered = [self.image_of(image) for image in pixels]
            assert [self.particle[image] for image in delivered] == self.numbers(message.identities)
            if data.draw(st.booleans()):
                ledger.batches.fold([batch.batch_id], "worker")
                self.folded.update(delivered)
        ledger.batches.requeue("worker")
        assert max(self.folded.values(), default=1) == 1, "the same image was folded twice"
        self.check_particles()

    # What must hold

    def check_particles(self):
        """Each image is one particle, and ever the same; two are one only if the one was written over the other."""
        connection = self.bench.ledger._connection
        known = defaultdict(set)
        for image, particle in connection.execute(
            "SELECT image, particle FROM places JOIN particles ON id = particle"
            " WHERE image NOT NULL AND state != 'quarantined'"
        ):
            known[image].add(particle)
        now = {image: known[digest(image)] for image in self.lain if digest(image) in known}
        assert all(len(particles) == 1 for particles in now.values()), "an image is two particles"
        now = {image: particle for image, (particle,) in now.items()}
        before = {i: p for i, p in self.particle.items() if i in now or i in self.folded}
        for image, particle in before.items():
            assert now.get(image) == particle, "an image has become another particle"
        for image in now.keys() - before.keys():
            others = [i for i, p in before.items() if p == now[image]]
            assert not others or self.has_replaced(image, others), (image, others, self.at)
        self.particle = now

    def has_replaced(self, image, others):
        """Whether an image lies where one of the others lay, and none of those lies elsewhere, as was known before.

        Of two files that were written anew since, either may be looked at first: what moved from one into another
        section of the other may be taken for gone (docs/input.md).
        """
        places = {place for place in self.lain[image] if self.is_at(image, place)}
        if not any(places & self.lain[other] for other in others):
            return False
        return any(
            not any(
                self.stamp[name] < min(self.stamp[place[0]], self.looked)
                for other in others
                for name in self.at
                if other in self.named(name)
            )
            for place in places
        )

    def check_complete(self):
        """Each image that a STAR names is a particle, and each that lies anywhere can be read; nothing else is."""
        ledger = self.bench.ledger
        for name in self.at:
            for image in self.named(name):
                assert image in self.particle, (name, image, self.at)
        self.bench.batcher.make(self.bench.now, flush=True)
        found = Counter()
        delivery = Delivery(ledger, self.root)
        there = {self.particle[image] for name in self.at for image in self.named(name)}
        for (batch_id,) in ledger._connection.execute("SELECT id FROM batches WHERE state = 'queued'").fetchall():
            message, pixels, bad = delivery.prepare(ledger.batches.get(batch_id), by_reference=False)
            assert not there.intersection(self.numbers(bad)), (bad, self.at)
            if not bad:
                delivered = [self.image_of(image) for image in pixels]
                assert [self.particle[image] for image in delivered] == self.numbers(message.identities)
                found.update(delivered)
        assert max(found.values(), default=1) == 1, "an image waits twice"
        assert not found.keys() & self.folded.keys(), "an image that was folded waits again"

    # Helpers

    def numbers(self, identities):
        query = "SELECT id FROM particles WHERE identity = ?"
        return [self.bench.ledger._connection.execute(query, (i,)).fetchone()[0] for i in identities]

    def some_file(self, data):
        return data.draw(st.sampled_from(sorted(self.at)))

    def named(self, name):
        """Return the images of a file that a STAR names."""
        return self.at[name][: self.rows.get(name, 0)]

    def is_at(self, image, place):
        name, section = place
        return name in self.at and section < len(self.at[name]) and self.at[name][section] == image

    def image_of(self, pixels):
        if pixels.tobytes() not in IMAGE_OF:
            IMAGE_OF.update((picture(i).tobytes(), i) for i in self.lain)
        return IMAGE_OF[pixels.tobytes()]

    def put(self, name, numbers):
        part = self.root / ".part"
        write_stack(part, np.stack([picture(i) for i in numbers]), PIXEL_SIZE)
        self.touch(part)
        part.rename(self.root / name)
        self.lies(name, list(numbers))
        self.describe(name)

    def lies(self, name, numbers):
        self.at[name] = numbers
        self.stamp[name] = next(self.clock)
        for section, image in enumerate(numbers):
            self.lain[image].add((name, section))

    def describe(self, name):
        """Write the STAR beside a stack that names all its images."""
        star = (self.root / name).with_suffix(".star")
        star.write_text(star_text(all_rows(Path(name).name, len(self.at[name]))), encoding="utf-8")
        self.touch(star)
        self.rows[name] = len(self.at[name])
        self.stamp[name] = next(self.clock)

    def undescribe(self, name):
        (self.root / name).with_suffix(".star").unlink(missing_ok=True)
        self.rows.pop(name, None)

    def touch(self, path):
        """Give a file a time that none had: two changes within one tick of the kernel's clock cannot be told apart."""
        stamp = next(self.clock)
        os.utime(path, (stamp, stamp))


TestCopies = CopyMachine.TestCase
TestCopies.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    derandomize=EXAMPLES == FEW,
    suppress_health_check=[HealthCheck.too_slow],
)

"""Writing stacks, moving them, and asking the ledger and the delivery what became of their images."""

import itertools
import os

import numpy as np

from streamrecon.ingest.delivery import Delivery
from streamrecon.io import write_stack
from tests.integration.ingest_helpers import PIXEL_SIZE, all_rows, star_text

CLOCK = itertools.count(1_700_000_000)


def describe(stack, n):
    """Write the STAR beside a stack that names its first images."""
    rows = all_rows(stack.name, n)
    star = stack.with_suffix(".star")
    star.write_text(star_text(rows), encoding="utf-8")
    stamp = next(CLOCK)
    os.utime(star, (stamp, stamp))


def put(stack, pixels):
    """Write a stack of these images, and its STAR."""
    stack.parent.mkdir(parents=True, exist_ok=True)
    write_stack(stack, pixels, PIXEL_SIZE)
    stamp = next(CLOCK)  # two changes within one tick of the kernel's clock cannot be told apart
    os.utime(stack, (stamp, stamp))
    describe(stack, len(pixels))


def move(stack, name):
    """Rename a stack, and write the STAR that names it."""
    there = stack.rename(stack.with_name(name))
    stack.with_suffix(".star").unlink()
    describe(there, 5)
    return there


def particles(bench):
    return bench.ledger._connection.execute("SELECT count(*) FROM particles").fetchone()[0]


def names_of(bench, identity):
    """Return the files in which the ledger knows an image to lie."""
    connection = bench.ledger._connection
    (number,) = connection.execute("SELECT id FROM particles WHERE identity = ?", (identity,)).fetchone()
    return {place.name for place in bench.ledger.contents.places_of(number)}


def is_ready(bench, *names):
    return all(bench.state_of(name) == "ready" for name in names)


def delivered(bench, *, by_reference=False):
    """Return every image that waits, in the order of its batches, and the files they are in."""
    bench.batcher.make(bench.now, flush=True)
    delivery = Delivery(bench.ledger, bench.root)
    pixels, identities, names = [], [], set()
    while (batch := bench.ledger.batches.lease_next("worker")) is not None:
        message, found, bad = delivery.prepare(batch, by_reference=by_reference)
        assert bad == {}
        pixels.append(found)
        identities += message.identities
        names |= set(message.table.stack_names)
    assert len(set(identities)) == len(identities)
    return None if by_reference else np.concatenate(pixels), names


def assert_once(found, *expected):
    """Each of the images is there, once, and nothing else."""
    expected = np.concatenate(expected)
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)

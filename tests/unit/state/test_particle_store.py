"""The particle store: bounded, in step with checkpoints whatever is interrupted, honest about what it gave up."""

import errno
import os
from dataclasses import fields

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.errors import StateError
from streamrecon.inference.compact import encode
from streamrecon.reconstruct.kept import Contribution, KeptLayout, KeptParticles
from streamrecon.state.particle_store import ParticleStore, record_type
from streamrecon.state.store_index import StoreIndex

LAYOUT = KeptLayout(6, 4)
RECORD = record_type(LAYOUT).itemsize


def contribution(rng, n):
    return Contribution(
        quaternion=rng.normal(size=(n, 4, 4)).astype(np.float32),
        shift=rng.normal(size=(n, 4, 2)).astype(np.float32),
        weight=rng.random((n, 4), np.float32),
        inverse_noise=rng.random((n, 7), np.float32),
        amplitude=rng.random(n, np.float32),
        b_factor=rng.random(n, np.float32),
        level=rng.normal(size=n),
        epoch=rng.integers(0, 9, n),
        frame=rng.integers(0, 3, n),
    )


def particles(rng, n):
    return KeptParticles(
        images=encode(CpuBackend(1), *rng.normal(size=(2, n, LAYOUT.n_points)).astype(np.float32), rng.normal(size=n))[
            0
        ],
        ctf_coefficients=rng.normal(size=(n, 5)).astype(np.float32),
        frequency_step=rng.random(n, np.float32),
        group=rng.integers(0, 4, n).astype(np.int32),
        half=rng.integers(0, 2, n).astype(np.int8),
        contribution=contribution(rng, n),
    )


def assert_same(found, expected):
    for f in fields(expected):
        a, b = getattr(found, f.name), getattr(expected, f.name)
        if isinstance(b, np.ndarray):
            assert np.array_equal(a, b), f.name
        else:
            assert_same(a, b)


def rows_of(n, first=0):
    return np.stack([np.arange(first, first + n), np.full(n, 80)], axis=1)


@pytest.fixture
def open_store(tmp_path):
    """Open stores on one file; they are closed after the test."""
    opened = []

    def open_one(records=None, index=None):
        store = ParticleStore(tmp_path / "particles.store", LAYOUT, 1, index)
        opened.append(store)
        if records is not None:
            store.capacity = records
        return store

    yield open_one
    for store in opened:
        if not store._file.closed:
            store.close()


def saved(store):
    """Return what a checkpoint would hold."""
    return store.index.checkpoint()


def test_records_come_back_as_they_were_put(open_store, rng):
    store = open_store()
    kept = particles(rng, 7)
    store.put(kept, np.arange(7.0), rows_of(7, 100), 7)
    found, back, rows = store.get(np.array([5, 2]))
    assert found.tolist() == [5, 2]
    assert_same(back, kept.take(np.array([5, 2])))
    assert rows.tolist() == [[105, 80], [102, 80]]
    new = contribution(rng, 2)
    store.replace(found, new, np.array([9.0, 8.0]), 9)
    assert_same(store.get(found)[1].contribution, new)
    assert_same(store.get(found)[1].images, kept.images.take(found))
    assert len(store) == 7
    assert store.n_bytes == 7 * RECORD


def test_it_never_grows_beyond_its_limit_and_drops_the_worst_of_the_oldest(open_store, tmp_path, rng):
    store = open_store()
    room = store.capacity
    assert room == 2**20 // RECORD
    n = room // 10
    evidence = []
    for number in range(13):
        e = rng.normal(size=n)
        evidence.append(e)
        store.put(particles(rng, n), e, rows_of(n, number * n), (number + 1) * n)
        assert len(store) <= room
    assert (tmp_path / "particles.store").stat().st_size <= 2**20
    assert store.dropped == 13 * n - len(store)
    _, _, rows = store.get(np.arange(room)[:: max(1, room // 200)])
    # arrivals of the last batches are all there; of the first half only the good ones
    order = {int(r): i for i, r in enumerate(np.concatenate([rows_of(n, k * n)[:, 0] for k in range(13)]))}
    flat = np.concatenate(evidence)
    everybody = np.flatnonzero(store.index._entries["used"])
    held = [order[int(r)] for r in store.get(everybody)[2][:, 0]]
    gone = sorted(set(range(len(flat))) - set(held))
    assert max(gone) < 9 * n  # none of the newer half of the time it went
    assert np.median(flat[gone]) < np.median(flat[held]) - 0.5
    assert len(rows)


def test_a_store_too_small_for_one_particle_says_so(tmp_path):
    big = KeptLayout(500, 4)
    with pytest.raises(StateError, match=r"store_megabytes = 1.*does not fit"):
        ParticleStore(tmp_path / "s", big, 1)


@pytest.mark.parametrize("what", ["from the start", "later"])
def test_on_a_full_disk_it_keeps_what_it_can_and_grows_once_there_is_room(open_store, rng, monkeypatch, tmp_path, what):
    store = open_store()
    monkeypatch.setattr("streamrecon.state.particle_store._FIRST_BYTES", 6 * RECORD)
    if what == "later":
        store.put(particles(rng, 5), np.arange(5.0), rows_of(5), 5)
    size, have = (tmp_path / "particles.store").stat().st_size, len(store)

    def full(descriptor, _, length):
        # as ext4 does: what there was room for is allocated, and the file longer
        os.ftruncate(descriptor, length - 1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("streamrecon.state.particle_store.os.posix_fallocate", full)
        for first in (5, 10):
            store.put(particles(rng, 5), 10 + np.arange(5.0), rows_of(5, first), first + 5)
        assert (tmp_path / "particles.store").stat().st_size == size
        assert len(store) == (6 if have else 0)
        assert len(store) + store.dropped == have + 10
        found, _, _ = store.get(np.flatnonzero(store.index._entries["used"]))
        assert len(found) == len(store)
        store.sync()
    dropped = store.dropped
    store.put(particles(rng, 20), np.arange(20.0), rows_of(20, 15), 35)
    assert store.dropped == dropped
    assert len(store) == (26 if have else 20)


def test_it_leaves_half_of_what_is_free_to_others(open_store, rng, monkeypatch):
    free = 4096 * 100
    real = os.fstatvfs

    def nearly_full(descriptor):
        fields = list(real(descriptor))
        fields[0] = fields[1] = 4096
        fields[4] = free // 4096
        return os.statvfs_result(fields)

    monkeypatch.setattr("streamrecon.state.particle_store.os.fstatvfs", nearly_full)
    monkeypatch.setattr("streamrecon.state.particle_store._FIRST_BYTES", RECORD)
    store = open_store()
    fits = free // 2 // RECORD
    store.put(particles(rng, fits), np.arange(float(fits)), rows_of(fits), fits)
    assert len(store) == fits
    store.put(particles(rng, fits + 1), np.arange(fits + 1.0), rows_of(fits + 1, fits), 2 * fits)
    assert len(store) == fits
    assert store.dropped == fits + 1


def test_a_disk_that_fails_otherwise_is_an_error(open_store, rng, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    store = open_store()
    monkeypatch.setattr("streamrecon.state.particle_store.os.posix_fallocate", broken)
    with pytest.raises(StateError, match=r"particles\.store: .*cannot grow \(Input/output error\)"):
        store.put(particles(rng, 5), np.arange(5.0), rows_of(5), 5)


def test_turns_go_to_the_worst_and_to_those_not_visited_for_longest(open_store, rng):
    store = open_store()
    evidence = np.array([5, 1, 9, 3, 7, 2, 8, 4, 6, 10.0])
    for i in range(10):
        store.put(particles(rng, 1), evidence[i : i + 1], rows_of(1, i), i)
    chosen, search = store.index.choose(4, 0.5)
    assert chosen[search].tolist() == [1, 5]
    assert chosen[~search].tolist() == [0, 2]
    seen = []
    while len(chosen):
        seen += chosen.tolist()
        store.replace(chosen, contribution(rng, len(chosen)), np.full(len(chosen), 5.0), 10 + len(seen))
        chosen, search = store.index.choose(4, 0.5)
    assert sorted(seen) == list(range(10))  # each once a sweep
    assert store.index.sweep_is_over
    store.index.sweep += 1
    assert not store.index.sweep_is_over


def test_a_torn_record_is_let_go(open_store, rng):
    store = open_store()
    store.put(particles(rng, 5), np.arange(5.0), rows_of(5), 5)
    store._records["image"]["values"][3, 0, 0] *= -1
    store._records["places"]["level"][1, store.index.current(1)] += 1
    found, kept, _ = store.get(np.arange(5))
    assert found.tolist() == [0, 2, 4]
    assert len(kept) == 3
    assert (store.lost, len(store)) == (2, 3)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_interrupted_the_durable_checkpoint_finds_its_contributions(open_store, seed):
    """Random life: puts, visits, checkpoints that succeed or fail; then the process dies.

    What the checkpoint's index still finds must be what the sums held when it was taken; only particles whose
    records went to others since may be missing.
    """
    rng = np.random.default_rng(seed)
    store = open_store(60)
    truth = {}  # stamp of the image -> its contribution's level, at this moment
    durable, pending = None, None
    first = 0
    for _ in range(120):
        action = rng.choice(["put", "visit", "visit", "take", "finish", "crash"], p=[0.2, 0.2, 0.2, 0.2, 0.15, 0.05])
        if action == "put":
            kept = particles(rng, 5)
            store.put(kept, rng.normal(size=5), rows_of(5, first), first)
            first += 5
            e = store.index._entries
            newest = np.argsort(e["stamp"])[-5:]
            truth |= {int(e["stamp"][p]): float(v) for p, v in zip(newest, kept.contribution.level, strict=True)}
        elif action == "visit":
            chosen, _ = store.index.choose(7, 0.3)
            found, _, _ = store.get(chosen)
            new = contribution(rng, len(found))
            store.replace(found, new, rng.normal(size=len(found)), first)
            truth |= {store.index.stamp(int(p)): float(v) for p, v in zip(found, new.level, strict=True)}
            if store.index.sweep_is_over:
                store.index.sweep += 1
        elif action == "take" and pending is None:
            pending = (saved(store), dict(truth), store.dropped)
        elif action == "finish" and pending is not None:
            if rng.random() < 0.7:
                store.index.durable()
                durable = pending
            else:
                store.index.failed()
            pending = None
        elif action == "crash" and durable is not None:
            written_over = store.dropped - durable[2]
            store.close()
            (arrays, scalars), truth = durable[0], dict(durable[1])
            store = open_store(60, StoreIndex.restored(arrays, scalars))
            pending = None
            everybody = np.flatnonzero(store.index._entries["used"])
            stamps = [store.index.stamp(int(p)) for p in everybody]
            found, kept, _ = store.get(everybody)
            held = {store.index.stamp(int(p)): float(v) for p, v in zip(found, kept.contribution.level, strict=True)}
            assert all(truth[stamp] == level for stamp, level in held.items())
            assert set(held) <= set(stamps)
            assert len(held) >= len(stamps) - written_over
            durable = (durable[0], durable[1], -written_over)  # gone for good
    store.close()


def test_visits_go_on_while_a_checkpoint_is_written_and_spare_both(open_store, rng):
    """Durable and pending checkpoint in different places: that particle waits, the others do not."""
    store = open_store()
    store.put(particles(rng, 3), np.arange(3.0), rows_of(3), 3)
    saved(store)
    store.index.durable()
    store.replace(np.array([0]), contribution(rng, 1), np.zeros(1), 4)
    saved(store)  # pending: particle 0 in its second place
    store.index.sweep += 1
    chosen, _ = store.index.choose(3, 0.0)
    assert sorted(chosen.tolist()) == [1, 2]
    assert not store.index.sweep_is_over
    with pytest.raises(RuntimeError, match="both in checkpoints"):
        store.index.turn(np.array([0]))
    store.index.durable()
    assert sorted(store.index.choose(3, 0.0)[0].tolist()) == [0, 1, 2]

"""What the particle store has where, and whose turn it is: small, in memory, part of every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

NONE = 255  # no place
NO_VIEW = 65535  # as what a particle's view was counted is not known
_FIELDS_BEFORE = [
    ("used", "u1"),
    ("current", "u1"),  # place of the contribution that is in the sums
    ("durable", "u1"),  # the same in the newest durable checkpoint
    ("pending", "u1"),  # and in the one that is being written
    ("stamp", "<u8"),  # of the image; grows, so it is also the order of arrival
    ("contribution_stamp", "<u8"),
    ("log_evidence", "<f4"),
    ("frame", "<i8"),
    ("visited", "<i8"),  # image visits at the latest visit
    ("sweep", "<u4"),  # in which it was visited last
]
_ENTRY_BEFORE = np.dtype(_FIELDS_BEFORE)  # of checkpoints made before it had views
_ENTRY = np.dtype([*_FIELDS_BEFORE, ("view", "<u2")])  # as what the particle's view was counted


class StoreIndex:
    """Which records are in use, and what a visit is chosen by.

    Attributes
    ----------
    sweep : int
        A sweep is over when every particle was visited in it; the first is 1.
    """

    def __init__(self) -> None:
        self._entries = np.zeros(0, _ENTRY)
        self._stamp = 0
        self.sweep = 1

    def __len__(self) -> int:
        return int(np.count_nonzero(self._entries["used"]))

    def add(
        self,
        n: int,
        capacity: int,
        log_evidence: NDArray[np.floating],
        frame: NDArray[np.integer],
        visit: int,
        view: NDArray[np.integer] | int = NO_VIEW,
    ) -> NDArray[np.int64]:
        """Take records for n new particles; there must be room. Return their numbers."""
        free = np.flatnonzero(self._entries["used"][:capacity] == 0)[:n]
        missing = n - len(free)
        if missing:
            size = len(self._entries)
            if size + missing > capacity:
                raise ValueError(f"expected room for {n} records, found {capacity - len(self)} of {capacity}")
            # grown by half each time, so that a long session does not copy its index at every batch
            grown = np.zeros(min(capacity, max(size + missing, size + size // 2)), _ENTRY)
            grown[:size] = self._entries
            self._entries = grown
            free = np.concatenate([free, np.arange(size, size + missing)])
        new = np.zeros(n, _ENTRY)
        new["used"] = 1
        new["current"] = new["durable"] = new["pending"] = NONE
        new["stamp"] = self._next(n)
        new["log_evidence"], new["frame"], new["visited"], new["view"] = log_evidence, frame, visit, view
        self._entries[free] = new
        return free.astype(np.int64)

    def remove(self, particles: NDArray[np.integer]) -> None:
        """Give records back."""
        self._entries["used"][particles] = 0

    def beyond(self, capacity: int) -> NDArray[np.int64]:
        """Return the particles whose records lie beyond a file of this many."""
        used = np.flatnonzero(self._entries["used"])
        return used[used >= capacity]

    def oldest_worst(self, n: int) -> NDArray[np.int64]:
        """Return the n particles to give up first: those of least log-evidence in the older half."""
        used = np.flatnonzero(self._entries["used"])
        pool = max(n, len(used) // 2)
        old = used[np.argsort(self._entries["stamp"][used], kind="stable")[:pool]]
        return old[np.argsort(self._entries["log_evidence"][old], kind="stable")[:n]]

    def choose(self, n: int, search_share: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return whom to visit next, and which of them to search everywhere; none: the sweep is over.

        A share of the batch are the worst-posed, by log-evidence, which are searched; the others are those that were
        not visited for longest. Each particle has one turn a sweep. One that has no free place for another
        contribution, while a checkpoint is being written, waits.
        """
        e = self._entries
        waiting = (e["used"] == 1) & (e["sweep"] < self.sweep)
        blocked = (e["durable"] != NONE) & (e["pending"] != NONE) & (e["durable"] != e["pending"])
        left = np.flatnonzero(waiting & ~blocked)
        n = min(n, len(left))
        worst = left[np.argsort(e["log_evidence"][left], kind="stable")[: int(np.ceil(search_share * n))]]
        others = np.setdiff1d(left, worst)
        longest = others[np.argsort(e["visited"][others], kind="stable")[: n - len(worst)]]
        search = np.zeros(n, bool)
        search[: len(worst)] = True
        return np.concatenate([worst, longest]), search

    @property
    def sweep_is_over(self) -> bool:
        """Whether everybody has had a turn in this sweep."""
        return self.left_in_sweep == 0

    @property
    def left_in_sweep(self) -> int:
        """How many particles have not had their turn in this sweep."""
        return int(np.count_nonzero((self._entries["used"] == 1) & (self._entries["sweep"] < self.sweep)))

    def visited(
        self,
        particles: NDArray[np.integer],
        log_evidence: NDArray[np.floating],
        frame: NDArray[np.integer],
        visit: int,
        view: NDArray[np.integer] | int = NO_VIEW,
    ) -> None:
        """Take note of a visit."""
        e = self._entries
        e["view"][particles] = view
        e["log_evidence"][particles], e["frame"][particles] = log_evidence, frame
        e["visited"][particles], e["sweep"][particles] = visit, self.sweep

    def turn(self, particles: NDArray[np.integer]) -> NDArray[np.int64]:
        """Give particles another place for their contribution, one that no checkpoint refers to; return it."""
        e = self._entries
        durable, pending = e["durable"][particles], e["pending"][particles]
        place = np.asarray((durable == 0) | (pending == 0), np.int64)
        if ((durable == place) | (pending == place)).any():
            raise RuntimeError(
                "a particle was visited whose places are both in checkpoints: choose() must leave it out"
            )
        e["current"][particles] = place
        e["contribution_stamp"][particles] = self._next(len(particles))
        return place

    def stamp(self, particle: int) -> int:
        """Return the stamp that the particle's image must carry."""
        return int(self._entries["stamp"][particle])

    def contribution_stamp(self, particle: int) -> int:
        """Return the stamp that its contribution must carry."""
        return int(self._entries["contribution_stamp"][particle])

    def views(self, particles: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Return as what views particles were counted, NO_VIEW where that is not known."""
        return np.asarray(self._entries["view"][particles])

    def current(self, particles: int | NDArray[np.integer]) -> NDArray[np.int64]:
        """Return in which place the contributions that are in the sums are."""
        return np.asarray(self._entries["current"][particles], np.int64)

    def checkpoint(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, int | float | str]]:
        """Return a copy for a checkpoint; until `durable` or `failed`, what it refers to is not written over."""
        self._entries["pending"] = self._entries["current"]
        entries = self._entries.copy()
        return {"store_index": entries}, {"store_stamp": self._stamp, "store_sweep": self.sweep}

    def durable(self) -> None:
        """The checkpoint is durable: the one before need not be protected any more."""
        self._entries["durable"] = self._entries["pending"]
        self._entries["pending"] = NONE

    def failed(self) -> None:
        """The checkpoint was not written."""
        self._entries["pending"] = NONE

    @classmethod
    def restored(
        cls, arrays: Mapping[str, NDArray[np.generic]], scalars: Mapping[str, int | float | str]
    ) -> StoreIndex | None:
        """Return the index of a checkpoint, None if it has none (made without a store, or with another layout)."""
        entries = arrays.get("store_index")
        if entries is None or entries.dtype.itemsize not in (_ENTRY.itemsize, _ENTRY_BEFORE.itemsize):
            return None
        index = cls()
        if entries.dtype.itemsize == _ENTRY.itemsize:
            index._entries = np.array(entries).view(_ENTRY)
        else:
            before = np.array(entries).view(_ENTRY_BEFORE)
            index._entries = np.zeros(len(before), _ENTRY)
            for name, _ in _FIELDS_BEFORE:
                index._entries[name] = before[name]
            index._entries["view"] = NO_VIEW
        index._entries["durable"] = index._entries["current"]
        index._entries["pending"] = NONE
        index._stamp, index.sweep = int(scalars["store_stamp"]), int(scalars["store_sweep"])
        return index

    def _next(self, n: int) -> NDArray[np.uint64]:
        first = self._stamp + 1
        self._stamp += n
        return np.arange(first, first + n, dtype=np.uint64)

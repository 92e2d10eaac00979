"""Particles kept on disk for another visit: bounded, memory-mapped, and in step with the checkpoints.

One record a particle: its image (written once) and two places for its contribution. A new contribution goes to the
place that no checkpoint refers to: whatever is interrupted, the newest durable checkpoint finds what its sums hold.
Each part carries a stamp and a checksum. What does not agree with the index (a record that was given away, a torn
write, an older checkpoint) is let go: such a particle stays in the sums as it is, and is not visited any more.
"""

from __future__ import annotations

import errno
import mmap
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from streamrecon.errors import StateError
from streamrecon.inference.compact import CompactImages
from streamrecon.reconstruct.kept import Contribution, KeptLayout, KeptParticles
from streamrecon.state.store_index import NO_VIEW, StoreIndex

_FIRST_BYTES = 16 * 2**20
# A disk without room: it may have some again.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_log = structlog.get_logger(__name__)
_SEAL = [("stamp", "<u8"), ("checksum", "<u4")]


def record_type(layout: KeptLayout) -> np.dtype[np.void]:
    """Return the dtype of one particle's record."""
    k = layout.samples
    image: Any = [
        ("values", "<f2", (2, layout.n_points)),
        ("exponent", "<i2"),
        ("zero", "<f4"),
        ("ctf_coefficients", "<f4", (5,)),
        ("frequency_step", "<f4"),
        ("group", "<i4"),
        ("half", "i1"),
        ("row", "<u8", (2,)),
        *_SEAL,
    ]
    contribution: Any = [
        ("quaternion", "<f4", (k, 4)),
        ("shift", "<f4", (k, 2)),
        ("weight", "<f4", (k,)),
        ("inverse_noise", "<f4", (layout.band + 1,)),
        ("amplitude", "<f4"),
        ("b_factor", "<f4"),
        ("level", "<f8"),
        ("epoch", "<i8"),
        ("frame", "<i8"),
        *_SEAL,
    ]
    return np.dtype([("image", np.dtype(image)), ("places", np.dtype(contribution), (2,))])


class ParticleStore:
    """Kept particles of one session.

    Parameters
    ----------
    path : Path or str
        Of the file; made if it is missing.
    layout : KeptLayout
    megabytes : int
        The file never grows beyond this.
    index : StoreIndex or None
        As a checkpoint recorded it; None starts empty, whatever the file holds.

    Attributes
    ----------
    capacity : int
        Records that the file may have.
    dropped, lost : int
        Particles given up to make room, and for records that did not agree with the index.

    Raises
    ------
    StateError
        The file cannot be made, or not even one record is allowed.

    Notes
    -----
    On a full disk nothing ends: the store keeps what it has room for, and grows once there is more. Checkpoints and
    maps come first, so it takes at most half of what is free.
    """

    def __init__(self, path: Path | str, layout: KeptLayout, megabytes: int, index: StoreIndex | None = None) -> None:
        self.path = Path(path)
        self._dtype = record_type(layout)
        self.capacity = megabytes * 2**20 // self._dtype.itemsize
        if self.capacity < 1:
            raise StateError(
                f"refinement.store_megabytes = {megabytes}: one particle of {self._dtype.itemsize} bytes does not fit; "
                "allow more, or set it to 0"
            )
        self.dropped = self.lost = 0
        self._index = StoreIndex() if index is None else index
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("r+b" if self.path.exists() else "w+b")
            self._short = False
            self._map: mmap.mmap | None = None
            self._records = np.zeros(0, self._dtype)
            have = min(self._on_disk, self.capacity)
            if have:
                self._map, self._records = self._mapped(have)
        except OSError as error:
            raise StateError(
                f"{self.path}: the store of particles cannot be made ({error.strerror}); free space, or set "
                "refinement.store_megabytes to less"
            ) from error
        beyond = self._index.beyond(len(self._records))
        self._forget(beyond)
        self.dropped += len(beyond)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def index(self) -> StoreIndex:
        """What is where; visits are chosen by it."""
        return self._index

    @property
    def n_bytes(self) -> int:
        """Bytes of the records in use."""
        return len(self) * self._dtype.itemsize

    def put(
        self,
        kept: KeptParticles,
        log_evidence: NDArray[np.floating],
        rows: NDArray[np.integer],
        visit: int,
        views: NDArray[np.integer] | None = None,
    ) -> None:
        """Keep new particles; if there is no room, the worst of the oldest make it.

        Parameters
        ----------
        kept : KeptParticles, n particles
        log_evidence : ndarray, (n,)
        rows : ndarray, (n, 2)
            Where the pose table has each particle's row: offset and length.
        visit : int
            The image visits so far: the time of this visit.
        views : ndarray, (n,) uint16, optional
            As what the particles' views were counted.
        """
        self._allocate(len(self) + len(kept))
        n = min(len(kept), self._room)
        self.dropped += len(kept) - n
        self._make_room(n)
        chosen = np.arange(len(kept) - n, len(kept))
        view = NO_VIEW if views is None else views[chosen]
        places = self._index.add(n, self._room, log_evidence[chosen], kept.contribution.frame[chosen], visit, view)
        images = self._records["image"]
        for at, i in zip(places.tolist(), chosen.tolist(), strict=True):
            record = images[at]
            record["values"], record["exponent"] = kept.images.values[i], kept.images.exponent[i]
            record["zero"] = kept.images.zero[i]
            record["ctf_coefficients"], record["frequency_step"] = kept.ctf_coefficients[i], kept.frequency_step[i]
            record["group"], record["half"], record["row"] = kept.group[i], kept.half[i], rows[i]
            _seal(record, self._index.stamp(at))
        self._write_contributions(places, kept.contribution.take(chosen))

    def get(self, particles: NDArray[np.integer]) -> tuple[NDArray[np.int64], KeptParticles, NDArray[np.uint64]]:
        """Return the records of particles, and where the pose table has them; those that do not agree are let go.

        Returns
        -------
        The particles that are good (m,), their records, and their rows (m, 2).
        """
        good = []
        for at in particles.tolist():
            image, place = self._records["image"][at], self._records["places"][at, self._index.current(at)]
            if _sealed(image, self._index.stamp(at)) and _sealed(place, self._index.contribution_stamp(at)):
                good.append(at)
        found = np.array(good, np.int64)
        bad = np.setdiff1d(particles, found)
        self._forget(bad)
        self.lost += len(bad)
        images = self._records["image"][found]
        places = self._records["places"][found, self._index.current(found)]
        columns = ("quaternion", "shift", "weight", "inverse_noise", "amplitude", "b_factor", "level", "epoch", "frame")
        kept = KeptParticles(
            images=CompactImages(images["values"], images["exponent"], images["zero"]),
            ctf_coefficients=images["ctf_coefficients"],
            frequency_step=images["frequency_step"],
            group=images["group"],
            half=images["half"],
            contribution=Contribution(*(np.ascontiguousarray(places[name]) for name in columns)),
        )
        return found, kept, images["row"]

    def replace(
        self,
        particles: NDArray[np.integer],
        contribution: Contribution,
        log_evidence: NDArray[np.floating],
        visit: int,
        views: NDArray[np.integer] | None = None,
    ) -> None:
        """Take note of a visit: what the particles are in the sums with now, and as what views they are counted."""
        view = NO_VIEW if views is None else views
        self._index.visited(particles, log_evidence, contribution.frame, visit, view)
        self._write_contributions(particles, contribution)

    def give_up(self, particles: NDArray[np.integer]) -> None:
        """Let go of particles that cannot be visited."""
        self._forget(particles)
        self.lost += len(particles)

    def sync(self) -> None:
        """Make everything durable, and let go of the memory; from any thread."""
        held = self._map  # the file may grow meanwhile
        if held is None:
            return
        # the same for Linux as mmap.flush(), which holds the interpreter, and so the loop, while the disk writes
        os.fdatasync(self._file.fileno())
        # what is on disk need not be counted as ours
        held.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the file; the store can be opened again."""
        del self._records
        if self._map is not None:
            self._map.close()
        self._file.close()

    @property
    def _on_disk(self) -> int:
        """Records that the file has room for."""
        return os.fstat(self._file.fileno()).st_size // self._dtype.itemsize

    @property
    def _room(self) -> int:
        """Records that there can be now."""
        return min(self.capacity, len(self._records))

    def _mapped(self, n: int) -> tuple[mmap.mmap, NDArray[np.void]]:
        """Return a map of a file of n records; the disk has room for all of them, so that no write can fail later."""
        size = n * self._dtype.itemsize
        os.posix_fallocate(self._file.fileno(), 0, size)
        mapped = mmap.mmap(self._file.fileno(), size)
        return mapped, np.frombuffer(mapped, self._dtype)

    def _allocate(self, n: int) -> None:
        """Let the file grow to hold n records, if it may and the disk has room; else that is tried at the next put."""
        have = len(self._records)
        if n <= have or have >= self.capacity:
            return
        grown = min(self.capacity, max(n, have + have // 2, _FIRST_BYTES // self._dtype.itemsize))
        size_before = os.fstat(self._file.fileno()).st_size
        try:
            self._leave_half(grown * self._dtype.itemsize - size_before)
            self._map, self._records = self._mapped(grown)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise StateError(
                    f"{self.path}: the store of particles cannot grow ({error.strerror}); mend the disk, or set "
                    "refinement.store_megabytes to 0"
                ) from error
            # what was allocated before there was no more is given back: others need it
            os.ftruncate(self._file.fileno(), size_before)
            if not self._short:
                remedy = "free space: it grows again; new particles take the place of the worst of the oldest meanwhile"
                _log.warning("store_cannot_grow", path=str(self.path), particles=have, remedy=remedy)
            self._short = True
            return
        if self._short:
            _log.info("store_grows_again", path=str(self.path), particles=len(self._records))
        self._short = False

    def _leave_half(self, n_bytes: int) -> None:
        """Raise OSError if so many bytes more are over half of what is free."""
        free = os.fstatvfs(self._file.fileno())
        if n_bytes > free.f_bavail * free.f_frsize // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_contributions(self, particles: NDArray[np.integer], contribution: Contribution) -> None:
        places = self._index.turn(particles)
        for i, (at, place) in enumerate(zip(particles.tolist(), places.tolist(), strict=True)):
            record = self._records["places"][at, place]
            for name in (
                "quaternion",
                "shift",
                "weight",
                "inverse_noise",
                "amplitude",
                "b_factor",
                "level",
                "epoch",
                "frame",
            ):
                record[name] = getattr(contribution, name)[i]
            _seal(record, self._index.contribution_stamp(at))

    def _make_room(self, n: int) -> None:
        short = n - (self._room - len(self))
        if short > 0:
            self._forget(self._index.oldest_worst(short))
            self.dropped += short

    def _forget(self, particles: NDArray[np.integer]) -> None:
        self._index.remove(particles)


def _seal(record: np.void, stamp: int) -> None:
    record["stamp"] = stamp
    record["checksum"] = 0
    record["checksum"] = zlib.crc32(record.tobytes())


def _sealed(record: np.void, stamp: int) -> bool:
    if record["stamp"] != stamp:
        return False
    copy = record.copy()
    copy["checksum"] = 0
    return bool(zlib.crc32(copy.tobytes()) == record["checksum"])

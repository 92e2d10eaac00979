"""A session on disk as the extraction programs leave it: stacks and manifests that appear one after the other.

RELION: ``Extract/job007/Micrographs/mic_00001.mrcs`` grows, then ``mic_00001_extract.star`` appears beside it;
now and then everything so far is joined into ``Extract/job007/particles.star``. cryoSPARC: a .mrc stack and a
.cs dataset a micrograph. The truth about the particles goes to another folder.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import numpy as np

from streamrecon.errors import ConfigError
from streamrecon.io.atomic import atomic_path
from streamrecon.io.cs import write_cs
from streamrecon.io.mrc_write import StackWriter
from streamrecon.io.star_write import loop_heading, optics_text, row_texts, table_columns, write_star
from streamrecon.optics.group import OpticsGroup
from streamrecon.simulate.microscope import Micrograph, Microscope

Format = Literal["relion", "cs"]
_JOB = {"relion": "Extract/job007", "cs": "J7"}
# Joined manifests are written anew each time; now and then keeps that cost small beside the stacks'.
_JOIN_EVERY_MICROGRAPHS = 20
_CHUNKS_PER_SECOND = 2.0


class SessionWriter:
    """Write a simulated session.

    Parameters
    ----------
    microscope : Microscope
    folder : Path
        The folder to be watched; must be empty or not there yet.
    truth_folder : Path
        Where ``ground_truth.star`` goes: outside ``folder``, or it would be taken for input.
    file_format : {"relion", "cs"}
    particles_per_second : float
        0: as fast as possible.
    sleep, clock : callable
        Replaced in tests.
    """

    def __init__(
        self,
        microscope: Microscope,
        folder: Path,
        truth_folder: Path,
        *,
        file_format: Format = "relion",
        particles_per_second: float = 0.0,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if truth_folder.absolute().is_relative_to(folder.absolute()):
            raise ConfigError(
                f"{truth_folder}: expected a folder for the truth outside {folder}, found one inside, "
                "where it would be "
                "taken for input; give another folder"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: expected an empty or new folder, found something in it; give another one")
        self._microscope = microscope
        self._folder = folder
        self._truth_folder = truth_folder
        self._format = file_format
        self._rate = particles_per_second
        self._sleep = sleep
        self._clock = clock
        self._job = folder / _JOB[file_format]

    def run(
        self,
        n_particles: int,
        on_progress: Callable[[int], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> int:
        """Write a session of ``n_particles`` and return how many were written.

        An end before that removes the unfinished stack and completes the joined manifests.

        Parameters
        ----------
        n_particles : int
        on_progress : callable
            Called with the number of particles written so far.
        stopped : callable
            Asked before each image or few: whether to end now. An exception between a whole stack and its rows would
            leave it out of the joined manifest, so that people are heard by this.
        """
        each = self._microscope.settings.particles_per_micrograph
        groups = self._microscope.optics_groups
        started = self._clock()
        written = 0
        truth_file = _GrowingStar(self._truth_folder / "ground_truth.star", groups, has_truth=True)
        joined_file = _GrowingStar(
            self._job / "particles.star", groups, has_truth=False, enabled=self._format == "relion"
        )
        with truth_file as truth, joined_file as joined:
            for number in range(-(-n_particles // each)):
                count = min(each, n_particles - written)
                micrograph = self._take(number, count)
                # first the truth: whatever is in the folder has its row there, even when this is the end
                truth.append(micrograph)
                if not self._write_micrograph(micrograph, started, written, on_progress, stopped):
                    break
                joined.append(micrograph)
                written += count
                if (number + 1) % _JOIN_EVERY_MICROGRAPHS == 0:
                    joined.publish()
                    truth.publish()
        return written

    def _take(self, number: int, count: int) -> Micrograph:
        name = f"mic_{number + 1:05d}"
        if self._format == "relion":
            stack = f"{_JOB['relion']}/Micrographs/{name}.mrcs"
        else:
            stack = f"{_JOB['cs']}/extract/{name}_particles.mrc"
        return self._microscope.micrograph(number, stack, f"MotionCorr/job002/Micrographs/{name}.mrc", count)

    def _write_micrograph(
        self,
        micrograph: Micrograph,
        started: float,
        written: int,
        on_progress: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> bool:
        """Write a stack and its manifest; return False, with neither left, if it was to end before it was whole."""
        images, table = micrograph.images, micrograph.table
        stack = self._folder / table.stack_names[0]
        stack.parent.mkdir(parents=True, exist_ok=True)
        pixel_size = self._microscope.settings.pixel_size_angstrom
        chunk = max(1, int(self._rate / _CHUNKS_PER_SECOND)) if self._rate else len(images)
        try:
            # RELION counts the images in the header as it appends them; cryoSPARC writes the count first
            with StackWriter(
                stack, len(images), images.shape[1:], pixel_size, growing_header=self._format == "relion"
            ) as writer:
                for start in range(0, len(images), chunk):
                    if stopped():
                        raise _Stopped
                    writer.append(images[start : start + chunk])
                    done = written + min(start + chunk, len(images))
                    on_progress(done)
                    if self._rate:
                        self._sleep(max(0.0, started + done / self._rate - self._clock()))
            if self._format == "relion":
                write_star(stack.with_name(f"{stack.stem}_extract.star"), table, rotation=None, shift_angstrom=None)
            else:
                write_cs(stack.with_suffix(".cs"), table)
        except _Stopped:
            stack.unlink(missing_ok=True)
            return False
        except BaseException:
            stack.unlink(missing_ok=True)
            raise
        return True


class _Stopped(Exception):
    """Leaves a stack in the middle."""


class _GrowingStar:
    """A STAR file that is published whole, again and again, while its rows gather in an unnamed file."""

    def __init__(self, path: Path, groups: tuple[OpticsGroup, ...], *, has_truth: bool, enabled: bool = True) -> None:
        self._path = path
        self._groups = groups
        self._has_truth = has_truth
        self._enabled = enabled
        self._rows: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._n_published = 0
        self._n_rows = 0

    def __enter__(self) -> _GrowingStar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._n_rows > self._n_published:
            self.publish()
        self._rows.close()

    def append(self, micrograph: Micrograph) -> None:
        if not self._enabled:
            return
        table = micrograph.table
        rows = row_texts(
            table,
            table.rotation if self._has_truth else None,
            table.shift_angstrom if self._has_truth else None,
            # class 2 is junk: the particles an honest program would put there
            {"rlnClassNumber": micrograph.is_junk.astype(np.int64) + 1} if self._has_truth else {},
            has_ctf=True,
        )
        self._rows.write("".join(rows).encode())
        self._n_rows += len(table)

    def publish(self) -> None:
        if not self._enabled:
            return
        columns = table_columns(has_ctf=True, has_pose=self._has_truth)
        extra = ("rlnClassNumber",) if self._has_truth else ()
        with atomic_path(self._path) as temporary, temporary.open("wb") as file:
            file.write((optics_text(self._groups) + loop_heading("particles", [*columns, *extra])).encode())
            self._rows.seek(0)
            shutil.copyfileobj(self._rows, file)
            file.write(b"\n")
        self._n_published = self._n_rows

"""Is this stack, and each particle that a manifest places in it, fit to be queued?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from streamrecon.errors import IngestError, ManifestMismatch, StreamReconError
from streamrecon.ingest.fingerprint import image_digests
from streamrecon.ingest.ledger_schema import Sampling
from streamrecon.ingest.settle import Problem
from streamrecon.io import (
    StackProbe,
    check_images,
    check_same_sampling,
    check_stack,
    read_sections,
)
from streamrecon.optics.group import OpticsGroup
from streamrecon.transport.table_wire import ParticleRow, optics_from_wire, table_from_rows

_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Examined:
    """What was found: sections by index, each good or with (kind, reason); rows past the end are in neither.

    Attributes
    ----------
    probe : StackProbe
    rows : dict of section to ParticleRow
        Those the stack holds, with the box size filled in.
    bad : dict of section to (kind, reason)
    images : dict of section to bytes
        What tells the images that are good; see `image_digests`.
    sampling : Sampling
        The session's, set by this stack if it is the first.
    """

    probe: StackProbe
    rows: dict[int, ParticleRow]
    bad: dict[int, tuple[str, str]]
    images: dict[int, bytes]
    sampling: Sampling | None


def problem_of(error: StreamReconError) -> Problem:
    """Return what an error means for the file: a plain IngestError (gone, no permission) may pass."""
    return Problem(error.kind, str(error), error.transient or type(error) is IngestError)


def examine_stack(
    path: Path,
    probe: StackProbe,
    rows: Mapping[int, ParticleRow],
    manifest: Path,
    sampling: Sampling | None,
    *,
    require_ctf: bool,
) -> Examined:
    """Read and check the particles asked for.

    Parameters
    ----------
    path : Path
        Absolute.
    probe : StackProbe
        Of the stack, which is complete.
    rows : mapping of zero-based section to ParticleRow
    manifest : Path
        One that names the stack, for the messages.
    sampling : Sampling or None
        The session's, None before its first stack.
    require_ctf : bool
        A particle without defocus is bad.

    Raises
    ------
    StackIncomplete, StackCorrupt, UnsupportedFormat, IngestError
        As in `read_sections`.
    ManifestMismatch
        The stack as a whole does not fit its manifest, or the session's box or pixel size.
    """
    inside = {
        index: msgspec.structs.replace(
            row, optics=msgspec.structs.replace(row.optics, box_size=row.optics.box_size or probe.nx)
        )
        for index, row in sorted(rows.items())
        if index < probe.nz
    }
    if not inside:
        return Examined(probe, {}, {}, {}, sampling)
    table = replace(table_from_rows(list(inside.values())), stack_names=(str(path),))
    check_stack(table, manifest, probe)
    first = next(iter(inside.values())).optics
    sampling = sampling or Sampling(first.box_size, first.pixel_size_angstrom, str(path))
    bad = _check_sampling(path, inside, sampling)
    if require_ctf:
        bad |= _check_ctf(manifest, {i: row for i, row in inside.items() if i not in bad})
    worse, images = _check_pixels(path, probe, [i for i in inside if i not in bad])
    return Examined(probe, inside, bad | worse, images, sampling)


def _check_sampling(path: Path, rows: Mapping[int, ParticleRow], sampling: Sampling) -> dict[int, tuple[str, str]]:
    session = OpticsGroup("the session's first stack", 0.0, 0.0, 0.0, sampling.pixel_size_angstrom, sampling.box_size)
    errors: dict[object, ManifestMismatch] = {}
    for optics in {row.optics for row in rows.values()}:
        try:
            check_same_sampling(sampling.path, session, path, optics_from_wire(optics))
        except ManifestMismatch as error:
            errors[optics] = error
    bad = {i: (e.kind, str(e)) for i, row in rows.items() if (e := errors.get(row.optics)) is not None}
    if len(bad) == len(rows):
        raise next(iter(errors.values()))
    return bad


def _check_ctf(manifest: Path, rows: Mapping[int, ParticleRow]) -> dict[int, tuple[str, str]]:
    reason = (
        f"{manifest}: expected a defocus for every particle, found none for this one; run CTF estimation "
        'upstream, or set input.ctf = "none"'
    )
    return {i: ("manifest_mismatch", reason) for i, row in rows.items() if None in row.ctf[:2]}


def _check_pixels(
    path: Path, probe: StackProbe, sections: Sequence[int]
) -> tuple[dict[int, tuple[str, str]], dict[int, bytes]]:
    bad: dict[int, tuple[str, str]] = {}
    images: dict[int, bytes] = {}
    step = max(1, _CHUNK_BYTES // (4 * probe.nx * probe.ny))
    for start in range(0, len(sections), step):
        chunk = np.array(sections[start : start + step])
        pixels = read_sections(path, chunk)
        good, reasons = check_images(pixels, path, chunk)
        for index, reason in zip(chunk[~good].tolist(), reasons, strict=True):
            bad[index] = ("stack_corrupt", reason)
        images |= zip(chunk[good].tolist(), image_digests(pixels[good]), strict=True)
    return bad, images

"""Reading RELION particle STAR files, 3.0 (one table) and 3.1 to 5 (optics, particles), as a ParticleTable.

gemmi does the parsing: it refuses a loop that is cut inside a row, where other readers return a padded table.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote

import numpy as np
from gemmi import cif
from numpy.typing import NDArray

from streamrecon.errors import IngestError, ManifestMismatch, StackIncomplete, UnsupportedFormat
from streamrecon.geometry.rotation import rotation_from_euler
from streamrecon.io.limits import MAX_NUMBER, MIN_DIVISOR, check_groups
from streamrecon.io.regular import open_regular
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

# About three million particles; the parsed text takes some five times as much memory.
_MAX_STAR_BYTES = 1 << 30
_MOST_DIGITS = 20  # of an image's number in its stack, leading zeros counted
_PARTICLE_BLOCKS = ("particles", "images", "", " ")
_ASCII = "".join(chr(c) for c in range(128) if chr(c) != "%")
_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
Decode = Callable[[str], str]


def read_star(path: Path | str) -> ParticleTable:
    """Read a particle STAR file.

    Parameters
    ----------
    path : Path or str

    Returns
    -------
    ParticleTable
        Stack names as the file spells them. ``box_size`` of a group is 0 where the file does not say it
        (RELION 3.0); voltage, aberration and amplitude contrast are 0 where neither they nor a defocus is
        given.

    Raises
    ------
    StackIncomplete
        The file is empty or ends inside a row or a heading: it is still being written.
    ManifestMismatch
        A needed column is missing or holds something else than numbers; no particles in the file at all.
    UnsupportedFormat
        Images that are no plain projections (volumes, CTF-premultiplied or phase-flipped), or a file
        beyond 1 GiB.
    IngestError
        The file is gone or cannot be read.

    Notes
    -----
    rlnOrigin says how far the image has to be moved to be centred: ``shift_angstrom = -origin``.
    """
    path = Path(path)
    document, decode = _parse(path)
    block = _particle_block(document, path)
    particles = _Columns(block, path, decode, "rlnImageName")
    optics = next((b for b in document if b.name == "optics"), None)

    numbers, names = _split_image_names(particles.texts("rlnImageName"), path)
    stack_names = tuple(dict.fromkeys(names))
    position = {name: i for i, name in enumerate(stack_names)}
    n = len(names)
    has_ctf = particles.has("rlnDefocusU")
    if optics is not None:
        groups, group_index = _groups_from_optics(_Columns(optics, path, decode, "rlnOpticsGroup"), particles, has_ctf)
    else:
        groups, group_index = _groups_from_rows(particles, has_ctf, n)
    check_groups(path, groups, has_ctf=has_ctf)

    defocus_u = particles.numbers("rlnDefocusU") if has_ctf else np.full(n, np.nan)
    # A file with one defocus and no angle means a round CTF.
    defocus_v = particles.numbers("rlnDefocusV") if particles.has("rlnDefocusV") else defocus_u
    pixel_size = np.array([group.pixel_size_angstrom for group in groups])[group_index]
    micrographs = None
    if particles.has("rlnMicrographName"):
        shared: dict[str, str] = {}
        micrographs = tuple(shared.setdefault(m, m) for m in particles.texts("rlnMicrographName"))
    return ParticleTable(
        optics_groups=groups,
        stack_names=stack_names,
        optics_group_index=group_index.astype(np.int32),
        stack_number=np.array([position[name] for name in names], np.int32),
        stack_index=(numbers - 1).astype(np.int32),
        defocus_u_angstrom=defocus_u.astype(np.float32),
        defocus_v_angstrom=defocus_v.astype(np.float32),
        astigmatism_angle_degrees=particles.numbers_or("rlnDefocusAngle", 0.0, n).astype(np.float32),
        phase_shift_degrees=particles.numbers_or("rlnPhaseShift", 0.0, n).astype(np.float32),
        rotation=_rotation(particles),
        shift_angstrom=_shift(particles, pixel_size),
        micrograph_names=micrographs,
    )


class _Columns:
    """The columns of one block, converted on demand; a missing or unreadable one is an error.

    All have as many values as the column ``key``: a block may hold several loops, of other lengths.
    """

    def __init__(self, block: cif.Block, path: Path, decode: Decode, key: str) -> None:
        self._block = block
        self._path = path
        self._decode = decode
        self._key, self._rows = key, len(block.find_values(f"_{key}"))
        self.where = f"data_{block.name.strip()}"

    def has(self, name: str) -> bool:
        return len(self._block.find_values(f"_{name}")) > 0

    def texts(self, name: str) -> list[str]:
        column = self._block.find_values(f"_{name}")
        if len(column) == 0:
            raise ManifestMismatch(
                f"{self._path}: expected a column {name} in {self.where}, found none; write the file with that column"
            )
        if self._rows and len(column) != self._rows:
            raise self.fail(
                f"{self._rows} values of {name}, as of {self._key},", str(len(column)), "put both into one loop"
            )
        decode = self._decode
        return [decode(cif.as_string(v) if v[0] in "'\";" else v) for v in column]

    def numbers(self, name: str) -> NDArray[np.float64]:
        texts = self.texts(name)
        try:
            # not by way of an array of texts: its every item is as wide as the longest
            values = np.fromiter(map(float, texts), np.float64, len(texts))
        except ValueError:
            bad = next(i for i, text in enumerate(texts) if not _is_number(text))
            raise ManifestMismatch(
                f"{self._path}: expected numbers in column {name} of {self.where}, found {reprlib.repr(texts[bad])} in "
                f"row {bad + 1}; "
                "correct or remove the row"
            ) from None
        good = np.abs(values) <= MAX_NUMBER
        if not good.all():
            bad = int(np.flatnonzero(~good)[0])
            raise ManifestMismatch(
                f"{self._path}: expected finite numbers in column {name} of {self.where}, found "
                f"{reprlib.repr(texts[bad])} in row "
                f"{bad + 1}; correct or remove the row"
            )
        return values

    def numbers_or(self, name: str, default: float, n: int) -> NDArray[np.float64]:
        return self.numbers(name) if self.has(name) else np.full(n, default)

    def fail(self, expected: str, found: str, remedy: str) -> ManifestMismatch:
        return ManifestMismatch(f"{self._path}: expected {expected} in {self.where}, found {found}; {remedy}")

    def unsupported(self, what: str) -> UnsupportedFormat:
        return UnsupportedFormat(f"{self._path}: expected plain 2D particle images, found {what}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse(path: Path) -> tuple[cif.Document, Decode]:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_STAR_BYTES:
                raise UnsupportedFormat(
                    f"{path}: expected a STAR file of at most {_MAX_STAR_BYTES} bytes, found {size}; split it "
                    "(relion_star_handler --split)"
                )
            raw = file.read()
    except OSError as error:
        raise IngestError(f"{path}: cannot be read ({error.strerror}); was it moved or deleted?") from error
    decode: Decode = _same
    if not raw.isascii():
        # STAR is an ASCII format and gemmi holds to that; RELION writes names in any encoding as they come.
        raw = quote_from_bytes(raw, safe=_ASCII).encode()
        decode = _decode_names
    try:
        return cif.read_string(raw), decode
    except (ValueError, RuntimeError) as error:
        # gemmi repeats the text it was given under the name "data"
        reason = str(error).removeprefix("data:")
        if _looks_cut(raw):
            raise StackIncomplete(
                f"{path}: looks cut inside a row or a heading (line {reason}); it is read once it is whole"
            ) from error
        raise ManifestMismatch(f"{path}: expected a STAR file, found line {reason}; correct or remove it") from error


def _same(text: str) -> str:
    return text


def _decode_names(text: str) -> str:
    # surrogateescape: file names need not be UTF-8, and this is how Python spells those that are not
    return unquote(text, errors="surrogateescape")


def _looks_cut(raw: bytes) -> bool:
    """Say whether the text is the beginning of a STAR file: all but its last row parses, or it has none."""
    # Room that was made but not written yet reads as zero bytes.
    body = raw.rstrip(b"\0").rstrip()
    last_line = body.rfind(b"\n") + 1
    if body[last_line:].lstrip().startswith((b"_", b"loop_", b"data_")):
        return True
    try:
        cif.read_string(body[:last_line])
    except (ValueError, RuntimeError):
        return False
    return True


def _particle_block(document: cif.Document, path: Path) -> cif.Block:
    names = [block.name for block in document]
    if not names or names == ["optics"]:
        raise StackIncomplete(f"{path}: expected particles, found {names or 'nothing'}; it is read once it is whole")
    blocks = {block.name: block for block in document}
    for name in _PARTICLE_BLOCKS:
        if name in blocks and len(blocks[name].find_values("_rlnImageName")):
            return blocks[name]
    for name in _PARTICLE_BLOCKS[:2]:
        # a heading with no row under it yet
        if name in blocks and (item := blocks[name].find_loop("_rlnImageName")) and item.tag:
            raise StackIncomplete(
                f"{path}: expected particles, found no row in data_{name}; it is read once it has some"
            )
    shown = ", ".join("data_" + name.strip() for name in names[:6])
    raise ManifestMismatch(
        f"{path}: expected a column rlnImageName in data_particles, data_images or data_, found {shown} "
        "without it; "
        "this is no particle STAR file: leave it out of watch.manifest_patterns"
    )


def _split_image_names(texts: list[str], path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Split ``000012@stack.mrcs`` into numbers (from 1) and names; a name without @ is a single image."""
    numbers = np.ones(len(texts), np.int64)
    names = []
    for i, text in enumerate(texts):
        number, at, name = text.partition("@")
        if not at:
            names.append(text)
            continue
        if not (number.isdecimal() and len(number) <= _MOST_DIGITS and 0 < int(number) < 2**31 and name):
            raise ManifestMismatch(
                f"{path}: expected rlnImageName like 000001@stack.mrcs, counted from 1, found {reprlib.repr(text)} in "
                f"row {i + 1}; "
                "correct or remove the row"
            )
        numbers[i] = int(number)
        names.append(name)
    return numbers, names


def _groups_from_optics(
    optics: _Columns, particles: _Columns, has_ctf: bool
) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int64]]:
    numbers = optics.numbers("rlnOpticsGroup").astype(np.int64)
    n = len(numbers)
    _refuse_altered_images(optics, n)
    pixel = _positive(optics, "rlnImagePixelSize")
    ctf = [_ctf_column(optics, name, has_ctf, n) for name in _CTF_COLUMNS]
    box = optics.numbers_or("rlnImageSize", 0.0, n).astype(int)
    names = (
        optics.texts("rlnOpticsGroupName") if optics.has("rlnOpticsGroupName") else [f"opticsGroup{i}" for i in numbers]
    )
    groups = tuple(
        OpticsGroup(names[i], float(ctf[0][i]), float(ctf[1][i]), float(ctf[2][i]), float(pixel[i]), int(box[i]))
        for i in range(n)
    )
    if n == 1 and not particles.has("rlnOpticsGroup"):
        return groups, np.zeros(len(particles.texts("rlnImageName")), np.int64)
    row_of = {int(number): i for i, number in enumerate(numbers)}
    used = particles.numbers("rlnOpticsGroup").astype(np.int64)
    distinct, inverse = np.unique(used, return_inverse=True)
    unknown = [int(number) for number in distinct if int(number) not in row_of]
    if unknown or len(row_of) < n:
        raise particles.fail(
            f"rlnOpticsGroup among the distinct numbers of data_optics ({sorted(row_of)})",
            f"{unknown or numbers.tolist()}",
            "add or renumber the optics groups",
        )
    return groups, np.array([row_of[int(number)] for number in distinct], np.int64)[inverse]


_CTF_COLUMNS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


def _groups_from_rows(particles: _Columns, has_ctf: bool, n: int) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int64]]:
    """Make the groups of a RELION 3.0 file, where each row repeats its optics: a group per distinct set."""
    _refuse_altered_images(particles, n)
    if particles.has("rlnDetectorPixelSize") and particles.has("rlnMagnification"):
        pixel = _positive(particles, "rlnDetectorPixelSize") * 1e4 / _positive(particles, "rlnMagnification")
    else:
        known = [name for name in ("rlnImagePixelSize", "rlnPixelSize") if particles.has(name)]
        if not known:
            raise particles.fail(
                "rlnDetectorPixelSize and rlnMagnification, or rlnImagePixelSize,",
                "neither, and no data_optics block",
                "add the pixel size",
            )
        pixel = _positive(particles, known[0])
    ctf = [_ctf_column(particles, name, has_ctf, n) for name in _CTF_COLUMNS]
    distinct, inverse = np.unique(np.stack([*ctf, pixel], axis=1), axis=0, return_inverse=True)
    groups = tuple(
        OpticsGroup(f"opticsGroup{i + 1}", voltage, aberration, contrast, pixel_size, box_size=0)
        for i, (voltage, aberration, contrast, pixel_size) in enumerate(distinct.tolist())
    )
    return groups, inverse.reshape(-1)


def _positive(columns: _Columns, name: str) -> NDArray[np.float64]:
    values = columns.numbers(name)
    if (values < MIN_DIVISOR).any():
        raise columns.fail(f"{name} above zero", f"{values.min()}", "correct it")
    return values


def _ctf_column(columns: _Columns, name: str, needed: bool, n: int) -> NDArray[np.float64]:
    """Return one column of microscope constants: an error if a defocus is given without it, else zeros."""
    if not needed:
        return columns.numbers_or(name, 0.0, n)
    return _positive(columns, name) if name == "rlnVoltage" else columns.numbers(name)


def _refuse_altered_images(columns: _Columns, n: int) -> None:
    if (columns.numbers_or("rlnImageDimensionality", 2.0, n) != 2).any():
        raise columns.unsupported("rlnImageDimensionality other than 2; subtomograms are not supported")
    for name, what in (
        ("rlnCtfDataAreCtfPremultiplied", "images multiplied by their CTF"),
        ("rlnCtfDataArePhaseFlipped", "phase-flipped images"),
    ):
        if columns.numbers_or(name, 0.0, n).any():
            raise columns.unsupported(f"{what} ({name} is 1); extract the particles without")


def _rotation(particles: _Columns) -> NDArray[np.float32] | None:
    if not all(particles.has(name) for name in _EULER):
        return None
    euler = np.stack([particles.numbers(name) for name in _EULER], axis=1)
    return rotation_from_euler(euler).astype(np.float32)


def _shift(particles: _Columns, pixel_size: NDArray[np.float64]) -> NDArray[np.float32] | None:
    for x, y, unit in (
        ("rlnOriginXAngst", "rlnOriginYAngst", np.ones(())),
        ("rlnOriginX", "rlnOriginY", pixel_size),
    ):
        if particles.has(x) and particles.has(y):
            origin = np.stack([particles.numbers(x) * unit, particles.numbers(y) * unit], axis=1)
            return (-origin).astype(np.float32)
    return None

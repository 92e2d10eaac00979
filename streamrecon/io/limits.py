"""What no number of a manifest may exceed: beyond it arithmetic in single precision ends in infinity or NaN."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from streamrecon.errors import ManifestMismatch
from streamrecon.optics.group import OpticsGroup

# its square still fits float32; no angstrom, degree or kilovolt of a microscope comes near
MAX_NUMBER = 1e15
# what others are divided by
MIN_DIVISOR = 1e-15
MAX_BOX = 32768
_MAX_VOLTAGE_KILOVOLT = 1e5
_MAX_ABERRATION_MILLIMETER = 1e4
_MAX_PIXEL_SIZE_ANGSTROM = 1e4


def check_groups(path: Path, groups: Iterable[OpticsGroup], *, has_ctf: bool) -> None:
    """Raise ManifestMismatch for an optics group that no microscope has.

    An amplitude contrast above 1, for one, would make every CTF of the group NaN. Without CTF the voltage may be 0.
    """
    voltage = 1.0 if has_ctf else 0.0
    for group in groups:
        for name, value, low, high in (
            (f"voltage of {voltage:g} to 1e5 kV", group.voltage_kilovolt, voltage, _MAX_VOLTAGE_KILOVOLT),
            (
                "spherical aberration of -1e4 to 1e4 mm",
                group.spherical_aberration_millimeter,
                -_MAX_ABERRATION_MILLIMETER,
                _MAX_ABERRATION_MILLIMETER,
            ),
            ("amplitude contrast of 0 to 1", group.amplitude_contrast, 0.0, 1.0),
            ("pixel size of 1e-3 to 1e4 angstrom", group.pixel_size_angstrom, 1e-3, _MAX_PIXEL_SIZE_ANGSTROM),
            (f"box of 0 to {MAX_BOX} pixels", group.box_size, 0, MAX_BOX),
        ):
            if not low <= value <= high:
                raise ManifestMismatch(
                    f"{path}: expected a {name} in optics group {group.name}, found {value}; correct the file"
                )

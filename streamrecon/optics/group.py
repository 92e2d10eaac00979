"""What a set of particles recorded alike has in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpticsGroup:
    """One optics group.

    Attributes
    ----------
    name : str
        As the upstream program calls it.
    voltage_kilovolt, spherical_aberration_millimeter, amplitude_contrast : float
    pixel_size_angstrom : float
    box_size : int, pixels
    """

    name: str
    voltage_kilovolt: float
    spherical_aberration_millimeter: float
    amplitude_contrast: float
    pixel_size_angstrom: float
    box_size: int

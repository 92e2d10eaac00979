"""What the settings mean for a box: lengths that are 0 in them stand for shares of it."""

from __future__ import annotations

from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.settings import EngineSettings

_JOIN_ANGSTROM = 40.0


def geometry_for(settings: EngineSettings, box_size: int, pixel_size_angstrom: float) -> ImageGeometry:
    """Return the geometry that the settings mean for a box."""
    diameter = settings.particle_diameter_angstrom / pixel_size_angstrom or 0.8 * box_size
    shift = settings.shift_range_angstrom / pixel_size_angstrom or 0.0625 * box_size
    return ImageGeometry(box_size, pixel_size_angstrom, min(diameter, 0.95 * box_size) / 2, shift)


def band_limit(settings: EngineSettings, box_size: int, pixel_size_angstrom: float) -> int:
    """Return the last shell the reconstruction may ever use."""
    limit = int(0.95 * box_size / 2)
    if settings.maximum_resolution_angstrom > 0:
        limit = min(limit, int(box_size * pixel_size_angstrom / settings.maximum_resolution_angstrom))
    return max(limit, settings.start_shells)


def join_shells(box_size: int, pixel_size_angstrom: float) -> int:
    """Return the shells that the references of both halves share in refinement: detail coarser than 40 angstrom."""
    return max(2, int(box_size * pixel_size_angstrom / _JOIN_ANGSTROM))

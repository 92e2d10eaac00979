"""From the images of a stack to those the engine expects: good ones only, protein white, background N(0, 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import structlog

from streamrecon.config.model import Config
from streamrecon.errors import ManifestMismatch, StackCorrupt
from streamrecon.io import check_images, detect_contrast, normalize_background
from streamrecon.particles import ParticleBatch

Contrast = Literal["protein_white", "protein_black"]
_DIAMETER_OF_BOX = 0.8

_log = structlog.get_logger(__name__)


def particle_radius_pixels(config: Config, box_size: int, pixel_size_angstrom: float) -> float:
    """Return the radius of the circle that holds the particle; at least the box's corners stay outside."""
    diameter = config.engine.particle_diameter_angstrom / pixel_size_angstrom or _DIAMETER_OF_BOX * box_size
    return min(diameter / 2, box_size / 2)


def sampling_of(batch: ParticleBatch) -> tuple[int, float]:
    """Return box size and pixel size of a batch.

    Raises
    ------
    ManifestMismatch
        Its optics groups differ in pixel size.
    """
    used = {batch.table.optics_groups[g].pixel_size_angstrom for g in np.unique(batch.table.optics_group_index)}
    if len(used) != 1:
        raise ManifestMismatch(
            f"expected one pixel size in a batch, found {sorted(used)} angstrom; rescale the particles to one"
        )
    return batch.images.shape[-1], used.pop()


def usable(batch: ParticleBatch) -> ParticleBatch:
    """Return the batch without images that hold NaN or nothing.

    Raises
    ------
    StackCorrupt
        No image is left.
    """
    good, reasons = check_images(batch.images, "batch", batch.table.stack_index)
    if good.all():
        return batch
    bad = [identity for identity, keep in zip(batch.identities, good, strict=True) if not keep]
    for identity, reason in zip(bad, reasons, strict=True):
        _log.warning("particle left out", particle=identity, reason=reason)
    if not good.any():
        raise StackCorrupt(f"expected images, found none that can be used in {len(good)}: {reasons[0]}")
    identities = tuple(i for i, keep in zip(batch.identities, good, strict=True) if keep)
    return ParticleBatch(batch.images[good], batch.table.select(good), identities)


def decide_contrast(config: Config, batches: list[ParticleBatch], *, must: bool) -> Contrast | None:
    """Return what the images show, None while they are too few to tell.

    Parameters
    ----------
    config : Config
    batches : list of ParticleBatch
        Usable, all of one box.
    must : bool
        Decide with what there is: white, as RELION and most others write them, if it stays unclear.
    """
    if config.input.contrast != "auto":
        return config.input.contrast
    box_size, pixel_size_angstrom = sampling_of(batches[0])
    images = np.concatenate([b.images for b in batches])  # (n, box, box)
    found = detect_contrast(images, particle_radius_pixels(config, box_size, pixel_size_angstrom))
    if found != "unsure":
        return found
    if not must:
        return None
    _log.warning(
        "contrast unclear, taking the protein as white; set input.contrast if it is not",
        images=len(images),
    )
    return "protein_white"


def prepare(config: Config, batch: ParticleBatch, contrast: Contrast) -> ParticleBatch:
    """Return the batch as the engine wants it.

    Raises
    ------
    IngestError
        An image has no background to normalise by.
    """
    images = batch.images if contrast == "protein_white" else -batch.images
    if config.input.normalize:
        images = normalize_background(images, particle_radius_pixels(config, *sampling_of(batch)))
    return replace(batch, images=images)

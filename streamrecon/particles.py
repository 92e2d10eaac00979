"""Particles as the numerics see them: a table of columns and a batch of images.

No file formats here; `streamrecon.io` maps foreign names onto these columns and nowhere else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import ManifestMismatch
from streamrecon.optics.ctf import ctf_coefficients
from streamrecon.optics.group import OpticsGroup

HALVES = ("a", "b")


@dataclass(frozen=True)
class ParticleTable:
    """Metadata of n particles, one row each.

    Attributes
    ----------
    optics_groups : tuple of OpticsGroup
    stack_names : tuple of str
        Distinct stacks as the source names them (or absolute paths once resolved).
    optics_group_index : ndarray, (n,) int32
    stack_number : ndarray, (n,) int32
        Into ``stack_names``.
    stack_index : ndarray, (n,) int32
        Zero-based section of the stack.
    defocus_u_angstrom, defocus_v_angstrom : ndarray, (n,) float32, angstrom
        Underfocus positive; NaN where the source gives no CTF.
    astigmatism_angle_degrees, phase_shift_degrees : ndarray, (n,) float32, degrees
    rotation : ndarray, (n, 3, 3) float32 or None
        As in `streamrecon.geometry.rotation`.
    shift_angstrom : ndarray, (n, 2) float32 or None
        Where the particle's centre lies, (x, y) from the box centre: minus RELION's origin.
    micrograph_names : tuple of str or None
        One a particle.
    """

    optics_groups: tuple[OpticsGroup, ...]
    stack_names: tuple[str, ...]
    optics_group_index: NDArray[np.int32]
    stack_number: NDArray[np.int32]
    stack_index: NDArray[np.int32]
    defocus_u_angstrom: NDArray[np.float32]
    defocus_v_angstrom: NDArray[np.float32]
    astigmatism_angle_degrees: NDArray[np.float32]
    phase_shift_degrees: NDArray[np.float32]
    rotation: NDArray[np.float32] | None = None
    shift_angstrom: NDArray[np.float32] | None = None
    micrograph_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.stack_index)

    @property
    def has_ctf(self) -> bool:
        """True if every particle has a defocus."""
        return bool(np.isfinite(self.defocus_u_angstrom).all() and np.isfinite(self.defocus_v_angstrom).all())

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_] | slice) -> ParticleTable:
        """Return the table of the given rows; groups and stack names stay whole."""
        index = np.arange(len(self))[rows]
        changed: dict[str, object] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                changed[f.name] = value[index]
        if self.micrograph_names is not None:
            changed["micrograph_names"] = tuple(self.micrograph_names[i] for i in index)
        return replace(self, **changed)  # type: ignore[arg-type]  # values come from the same fields

    def identities(self) -> list[str]:
        """Return each particle's name, ``000001@stack``: what makes it the same particle when it comes again."""
        names = self.stack_names
        return [
            f"{i + 1:06d}@{names[s]}"
            for i, s in zip(self.stack_index.tolist(), self.stack_number.tolist(), strict=True)
        ]

    def ctf_coefficients(self) -> NDArray[np.float32]:
        """Return (n, 5) float32 of `ctf_coefficients`, each row by its own optics group.

        A particle without CTF gets a constant C = 1.
        """
        out = np.zeros((len(self), 5), np.float32)
        out[:, 4] = np.pi / 2
        for g, group in enumerate(self.optics_groups):
            rows = np.flatnonzero((self.optics_group_index == g) & np.isfinite(self.defocus_u_angstrom))
            if len(rows):
                out[rows] = ctf_coefficients(
                    group,
                    self.defocus_u_angstrom[rows],
                    self.defocus_v_angstrom[rows],
                    self.astigmatism_angle_degrees[rows],
                    self.phase_shift_degrees[rows],
                )
        return out


def half_of(identity: str) -> int:
    """Return the half-set (0 is "a", 1 is "b"): a hash, so that a redelivery lands in the same half."""
    return hashlib.blake2b(identity.encode(), digest_size=1).digest()[0] & 1


@dataclass(frozen=True)
class ParticleBatch:
    """Images together with their table.

    Attributes
    ----------
    images : ndarray, (n, box, box) float32
        As read from the stack.
    table : ParticleTable, n rows
    identities : tuple of str
        Stable names, relative to the watched root; decide the half-set.
    """

    images: NDArray[np.float32]
    table: ParticleTable
    identities: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.table) == len(self.identities):
            raise ManifestMismatch(
                f"a batch of {len(self.images)} images came with {len(self.table)} rows and "
                f"{len(self.identities)} identities; they must be equally many"
            )

    def __len__(self) -> int:
        return len(self.identities)

    def select(self, rows: NDArray[np.integer]) -> ParticleBatch:
        """Return the batch of the given rows, in their order."""
        identities = tuple(self.identities[i] for i in rows)
        return ParticleBatch(self.images[rows], self.table.select(rows), identities)

    @property
    def half(self) -> NDArray[np.int8]:
        """Half-set of each particle, (n,) int8."""
        return np.array([half_of(i) for i in self.identities], np.int8)

"""Fourier shell correlation of two half maps: unmasked, masked, phase-randomised and corrected.

A mask multiplies in real space, so it mixes Fourier coefficients, and two maps that share nothing but the mask
correlate. How much, the same maps tell once their phases are made random: what still correlates is the mask's doing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.fourier.shells import (
    first_shell_below,
    fourier_shell_correlation,
    resolution_from_fsc,
    shell_index_rfft,
)

THRESHOLD = 0.143
RELION_RANDOMISE_BELOW = 0.8
CRYOSPARC_RANDOMISE_BELOW = 0.143
# RELION corrects from two shells beyond the first randomised one: the mask leaks true signal over the border
_BUFFER_SHELLS = 2


@dataclass(frozen=True)
class FscCurves:
    """FSC curves of two half maps; entry i is shell i.

    Attributes
    ----------
    unmasked, masked, randomised, corrected : ndarray, (box // 2 + 1,) float32
        ``randomised`` is that of the phase-randomised maps under the mask.
    randomised_from : int
        First shell with random phases; box // 2 + 1 if there is none.
    box_size : int
    voxel_size_angstrom : float
    """

    unmasked: NDArray[np.float32]
    masked: NDArray[np.float32]
    randomised: NDArray[np.float32]
    corrected: NDArray[np.float32]
    randomised_from: int
    box_size: int
    voxel_size_angstrom: float

    def resolution_angstrom(self, threshold: float = THRESHOLD) -> float:
        """Return where the corrected curve crosses ``threshold``, interpolated between shells."""
        return resolution_from_fsc(self.corrected, self.box_size, self.voxel_size_angstrom, threshold)

    @property
    def unmasked_resolution_angstrom(self) -> float:
        """Return where the unmasked curve crosses 0.143, interpolated between shells."""
        return resolution_from_fsc(self.unmasked, self.box_size, self.voxel_size_angstrom, THRESHOLD)

    @property
    def shell_resolution_angstrom(self) -> float:
        """Return the last shell before the corrected curve first falls below 0.143: as RELION states it."""
        shell = first_shell_below(self.corrected, THRESHOLD) - 1
        return self.box_size * self.voxel_size_angstrom / max(shell, 1)


def fsc_curves(
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    voxel_size_angstrom: float,
    mask: NDArray[np.floating],
    *,
    randomise_below: float = RELION_RANDOMISE_BELOW,
    seed: int = 0,
) -> FscCurves:
    """Correlate two half maps in the four ways.

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
    voxel_size_angstrom : float
    mask : ndarray, (box,)*3
        0 to 1.
    randomise_below : float
        Phases are randomised from the first shell on at which the unmasked FSC is below this: 0.8 in RELION's
        postprocess (`RELION_RANDOMISE_BELOW`), 0.143 in cryoSPARC (`CRYOSPARC_RANDOMISE_BELOW`).
    seed : int
        Of the random phases.

    Notes
    -----
    With T the masked and N the randomised curve, FSC = (T - N) / (1 - N) from two shells beyond the first randomised
    one, and T below.

    References
    ----------
    Chen et al. 2013, Ultramicroscopy 135, 24, eq. 4.
    """
    box = len(half_a)
    n_shells = box // 2 + 1
    shell = shell_index_rfft(box)
    transforms = [scipy.fft.rfftn(np.asarray(v, np.float32)) for v in (half_a, half_b)]
    unmasked = fourier_shell_correlation(transforms[0], transforms[1], shell, n_shells)
    start = first_shell_below(unmasked, randomise_below)

    def under_mask(volumes: list[NDArray[np.floating]]) -> NDArray[np.float32]:
        a, b = (scipy.fft.rfftn(np.asarray(v * mask, np.float32)) for v in volumes)
        return fourier_shell_correlation(a, b, shell, n_shells)

    masked = under_mask([half_a, half_b])
    if start >= n_shells:
        return FscCurves(unmasked, masked, masked, masked, n_shells, box, voxel_size_angstrom)
    rng = np.random.default_rng(seed)
    randomised = under_mask([_randomised(t, start, box, rng) for t in transforms])
    return FscCurves(
        unmasked=unmasked,
        masked=masked,
        randomised=randomised,
        corrected=corrected_fsc(masked, randomised, start),
        randomised_from=start,
        box_size=box,
        voxel_size_angstrom=voxel_size_angstrom,
    )


def corrected_fsc(
    masked: NDArray[np.floating], randomised: NDArray[np.floating], randomised_from: int
) -> NDArray[np.float32]:
    """Take the mask's share out of a masked curve; see `fsc_curves`."""
    t, n = np.asarray(masked, np.float64), np.asarray(randomised, np.float64)
    # a shell that correlates wholly at random says nothing: its true correlation counts as none
    true = np.divide(t - n, 1.0 - n, out=np.zeros_like(t), where=1.0 - n > 1e-6)
    keep = np.arange(len(t)) < randomised_from + _BUFFER_SHELLS
    return np.where(keep, t, np.clip(true, -1.0, 1.0)).astype(np.float32)


def _randomised(
    transform: NDArray[np.complexfloating],
    start: int,
    box_size: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return the map with random phases at every frequency of at least ``start`` Fourier pixels, amplitudes kept.

    As RELION: the inner half of shell ``start`` keeps its phases.
    """
    k2 = np.fft.fftfreq(box_size, 1 / box_size) ** 2
    beyond = k2[:, None, None] + k2[None, :, None] + np.arange(box_size // 2 + 1) ** 2 >= start**2
    phase = rng.uniform(-np.pi, np.pi, transform.shape).astype(np.float32)
    random = np.abs(transform) * np.exp(1j * phase)
    # irfftn takes only half of the self-conjugate planes: they come out with the amplitudes of a random pair's mean,
    # one part in box / 2 of the shells
    mixed = np.where(beyond, random, transform)
    return np.asarray(scipy.fft.irfftn(mixed, s=(box_size,) * 3), np.float32)

"""Sharpening: the B-factor from a Guinier plot, and the map with it undone, weighted by what the FSC vouches for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.fourier.shells import shell_index_rfft, shell_sums

FIT_FROM_ANGSTROM = 10.0
_LEAST_POINTS = 4
_LEAST_FSC = 1e-4
_EDGE_SHELLS = 2


@dataclass(frozen=True)
class GuinierFit:
    """A straight line through ln(mean amplitude) against 1/d^2.

    Attributes
    ----------
    b_factor_angstrom2 : float
        4 times the slope: negative where amplitudes fall off, and what sharpening applies has this sign, as in RELION.
    intercept, correlation : float
    points : int
        Shells in the fit.
    """

    b_factor_angstrom2: float
    intercept: float
    correlation: float
    points: int


def fsc_weight(fsc: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return sqrt(2 FSC / (1 + FSC)) by shell, 0 from the first shell on where the FSC is no longer positive.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721, eq. 17: the correlation of the mean of both halves with the
    true map, which is its figure of merit.
    """
    values = np.asarray(fsc, np.float64).copy()
    if len(values) and values[0] <= 0:
        values[0] = 1.0  # a shell of one coefficient, which the mean of a map decides
    end = np.flatnonzero(values < _LEAST_FSC)
    values[end[0] if len(end) else len(values) :] = 0.0
    return np.asarray(np.sqrt(2 * values / (1 + values)), np.float64)


def guinier_fit(
    amplitude: NDArray[np.floating],
    box_size: int,
    voxel_size_angstrom: float,
    *,
    from_angstrom: float = FIT_FROM_ANGSTROM,
    to_angstrom: float = 0.0,
) -> GuinierFit | None:
    """Fit the B-factor to a shell profile of amplitudes.

    Parameters
    ----------
    amplitude : ndarray, (n_shells,)
        Mean |F| of each shell, weighted by `fsc_weight`; shells of 0 are left out.
    box_size, voxel_size_angstrom : int, float
    from_angstrom, to_angstrom : float, angstrom
        The shells between, both included; ``to_angstrom`` 0 goes to Nyquist.

    Returns
    -------
    GuinierFit or None
        None with fewer than 4 shells: a line through less tells nothing.
    """
    shells = np.arange(len(amplitude))
    with np.errstate(divide="ignore"):
        resolution = box_size * voxel_size_angstrom / shells.astype(np.float64)
    use = (resolution <= from_angstrom) & (resolution >= max(to_angstrom, 2 * voxel_size_angstrom * (1 - 1e-9)))
    use &= np.asarray(amplitude) > 0
    if use.sum() < _LEAST_POINTS:
        return None
    x, y = 1.0 / resolution[use] ** 2, np.log(np.asarray(amplitude, np.float64)[use])
    slope, intercept = np.polyfit(x, y, 1)
    spread = float(np.std(x) * np.std(y))
    correlation = float(np.mean((x - x.mean()) * (y - y.mean())) / spread) if spread > 0 else 0.0
    return GuinierFit(4.0 * float(slope), float(intercept), correlation, int(use.sum()))


@dataclass(frozen=True)
class SharpenedMap:
    """A sharpened map and how it was made.

    Attributes
    ----------
    volume : ndarray, (box,)*3 float32
    fit : GuinierFit or None
        None with fewer than four shells between 10 A and the resolution.
    b_factor_angstrom2 : float
        What was applied: the fit's, the caller's, or 0.
    amplitude, weighted, sharpened : ndarray, (n_shells,) float64
        Mean |F| by shell of the mean map, after the FSC weight, and after the B-factor.
    """

    volume: NDArray[np.float32]
    fit: GuinierFit | None
    b_factor_angstrom2: float
    amplitude: NDArray[np.float64]
    weighted: NDArray[np.float64]
    sharpened: NDArray[np.float64]


def sharpened_map(
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    voxel_size_angstrom: float,
    fsc: NDArray[np.floating],
    resolution_angstrom: float,
    *,
    b_factor_angstrom2: float | None = None,
    shell_gain: NDArray[np.floating] | None = None,
) -> SharpenedMap:
    """Weight the mean of two half maps by their FSC, undo the B-factor, and filter to the resolution.

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
    voxel_size_angstrom : float
    fsc : ndarray, (box // 2 + 1,)
        The corrected curve.
    resolution_angstrom : float
        Of the low-pass, a raised cosine over two shells.
    b_factor_angstrom2 : float or None
        Apply this (negative sharpens) instead of the fitted one.
    shell_gain : ndarray, (box // 2 + 1,), optional
        Multiplied to each shell first: undoes a filter that the halves have been through.
    """
    box = len(half_a)
    n_shells = box // 2 + 1
    shell = shell_index_rfft(box)
    transform = scipy.fft.rfftn(np.asarray((half_a + half_b) / 2, np.float32))
    count = np.maximum(shell_sums(np.ones(shell.shape, np.float32), shell, n_shells), 1)
    gain = np.ones(n_shells) if shell_gain is None else np.asarray(shell_gain, np.float64)
    amplitude = gain * shell_sums(np.abs(transform), shell, n_shells) / count
    weight = gain * fsc_weight(fsc)
    weighted = amplitude * fsc_weight(fsc)
    # RELION fits to the end of the weight, beyond the resolution too: a map that ends near 10 A gave the slope of noise
    inside = np.where(np.arange(n_shells) <= box * voxel_size_angstrom / resolution_angstrom + 1e-6, weighted, 0.0)
    told = guinier_fit(inside, box, voxel_size_angstrom) is not None
    fit = guinier_fit(weighted, box, voxel_size_angstrom) if told else None
    applied = b_factor_angstrom2 if b_factor_angstrom2 is not None else fit.b_factor_angstrom2 if fit else 0.0
    length = box * voxel_size_angstrom
    boost = np.exp(-applied / 4 * (np.arange(n_shells) / length) ** 2)
    # beyond Nyquist's sphere the corners of the box hold nothing that the FSC has looked at
    ramp = np.clip((np.arange(n_shells) - length / resolution_angstrom) / _EDGE_SHELLS + 0.5, 0.0, 1.0)
    low_pass = 0.5 + 0.5 * np.cos(np.pi * ramp)
    profile = np.append(weight * boost * low_pass, 0.0).astype(np.float32)
    transform *= profile[np.minimum(shell, n_shells)]
    return SharpenedMap(
        volume=np.asarray(scipy.fft.irfftn(transform, s=(box,) * 3), np.float32),
        fit=fit,
        b_factor_angstrom2=float(applied),
        amplitude=amplitude,
        weighted=weighted,
        sharpened=weighted * boost,
    )


def filter_undone(fsc: NDArray[np.floating], floor: float = 0.02) -> NDArray[np.float64]:
    """Return the gain that undoes the engine's Wiener filter on its half maps, by shell, 0 beyond their band.

    The engine divides a shell by weight + <weight> / SSNR with SSNR = FSC / (1 - FSC) (docs/method.md, section 4),
    which multiplies an evenly filled shell by FSC. ``floor`` is the smallest FSC it does that with.
    """
    values = np.asarray(fsc, np.float64)
    held = np.flatnonzero(values != 0)
    inside = np.arange(len(values)) <= (held[-1] if len(held) else -1)
    return np.where(inside, 1.0 / np.clip(values, floor, 1.0), 0.0)

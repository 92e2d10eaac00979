"""A virtual microscope: micrographs of particles with everything about them known.

A micrograph's content depends only on the settings, the seed and its own number. So the same session comes out
the same whatever is drawn first, how fast, or in how many pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.errors import ConfigError
from streamrecon.geometry.rotation import rotation_from_euler
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable
from streamrecon.simulate.projection import Projector

# Voltage, spherical aberration, amplitude contrast: two common microscopes, then variations of the contrast.
_MICROSCOPES = ((300.0, 2.7, 0.1), (200.0, 2.7, 0.07), (300.0, 2.7, 0.07), (200.0, 2.0, 0.1))
_N_CALIBRATION = 256
# Streams of one micrograph's generator; the calibration has a micrograph number of its own.
_PARAMETERS, _NOISE = 0, 1
_CALIBRATION_NUMBER = 2**63


@dataclass(frozen=True)
class MicroscopeSettings:
    """How the pictures are taken.

    Attributes
    ----------
    pixel_size_angstrom : float
    particles_per_micrograph : int
    snr : float
        Variance of the CTF-affected signal over the whole box, averaged over particles, divided by the noise
        variance of a pixel. Infinite: no noise.
    defocus_range_angstrom : (float, float)
        Each micrograph's mean defocus is uniform in it.
    astigmatism_angstrom : float
        Defocus U - V, the same for all micrographs; the axis is random.
    defocus_spread_angstrom : float
        Standard deviation of a particle's height in the ice.
    shift_sigma_angstrom : float
        Standard deviation of a particle's displacement along x and along y.
    phase_shift_degrees : float
        Of a phase plate.
    envelope_b_factor : float, angstrom^2
    n_optics_groups : int
        Micrographs take turns; the first four differ in voltage, aberration or amplitude contrast, then they
        repeat.
    view_concentration : float
        0: all views alike. Above: views gather around the specimen's z axis, density exp(concentration cos^2 tilt);
        below: around its equator.
    junk_fraction : float
        Share of particles that are noise alone.
    noise : {"white", "colored"}
        Colored falls with frequency as a detector's response does, with the same variance.
    seed : int
    """

    pixel_size_angstrom: float = 3.2
    particles_per_micrograph: int = 50
    snr: float = 0.1
    defocus_range_angstrom: tuple[float, float] = (10_000.0, 25_000.0)
    astigmatism_angstrom: float = 300.0
    defocus_spread_angstrom: float = 150.0
    shift_sigma_angstrom: float = 5.0
    phase_shift_degrees: float = 0.0
    envelope_b_factor: float = 0.0
    n_optics_groups: int = 1
    view_concentration: float = 0.0
    junk_fraction: float = 0.0
    noise: Literal["white", "colored"] = "white"
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.defocus_range_angstrom
        wrong = [
            text
            for text, is_wrong in (
                (f"pixel size above 0, found {self.pixel_size_angstrom}", self.pixel_size_angstrom <= 0),
                (
                    f"at least 1 particle a micrograph, found {self.particles_per_micrograph}",
                    self.particles_per_micrograph < 1,
                ),
                (f"an SNR above 0, found {self.snr}", not self.snr > 0),
                (f"a defocus range that rises, found {low} to {high}", high < low),
                (f"at least 1 optics group, found {self.n_optics_groups}", self.n_optics_groups < 1),
                (f"a junk fraction from 0 to 1, found {self.junk_fraction}", not 0 <= self.junk_fraction <= 1),
                (f"a seed from 0 to 2^64 - 1, found {self.seed}", not 0 <= self.seed < 2**64),
            )
            if is_wrong
        ]
        if wrong:
            raise ConfigError("simulation: expected " + "; ".join(wrong))


@dataclass(frozen=True)
class Micrograph:
    """Particles picked from one micrograph, with the truth about them.

    Attributes
    ----------
    number : int
        Counts from 0.
    images : ndarray, (n, box, box) float32
        Protein white, noise of mean 0 and variance 1.
    table : ParticleTable
        One stack name, ``rotation`` and ``shift_angstrom`` are the truth.
    is_junk : ndarray, (n,) bool
    """

    number: int
    images: NDArray[np.float32]
    table: ParticleTable
    is_junk: NDArray[np.bool_]


class Microscope:
    """Takes pictures of a specimen.

    Parameters
    ----------
    volume : ndarray, (box, box, box)
    settings : MicroscopeSettings
    """

    def __init__(self, volume: NDArray[np.floating], settings: MicroscopeSettings) -> None:
        self.settings = settings
        self.box_size = volume.shape[0]
        self.optics_groups = tuple(
            OpticsGroup(
                f"opticsGroup{i + 1}", *_MICROSCOPES[i % len(_MICROSCOPES)], settings.pixel_size_angstrom, self.box_size
            )
            for i in range(settings.n_optics_groups)
        )
        self._projector = Projector(volume, settings.pixel_size_angstrom)
        self._signal_deviation = self._calibrate()
        self._noise_filter = _noise_filter(self.box_size) if settings.noise == "colored" else None

    def micrograph(
        self, number: int, stack_name: str, micrograph_name: str, n_particles: int | None = None
    ) -> Micrograph:
        """Take one micrograph.

        Parameters
        ----------
        number : int
            Counts from 0.
        stack_name, micrograph_name : str
            Put into the table.
        n_particles : int, optional
            Only the first so many; they are the same as in the whole micrograph.
        """
        n = self.settings.particles_per_micrograph
        table, is_junk = self._parameters(number, n, stack_name, micrograph_name)
        rows = slice(0, n if n_particles is None else n_particles)
        table, is_junk = table.select(rows), is_junk[rows]
        images = self._signal(table)
        images *= np.where(is_junk, 0, self._signal_scale())[:, None, None].astype(np.float32)
        if np.isfinite(self.settings.snr):
            images += self._noise(number, len(table))
        return Micrograph(number, images, table, is_junk)

    def _generator(self, number: int, stream: int) -> np.random.Generator:
        # Philox counts: key and counter name the stream, so no draw depends on one before it.
        # The types are said, for a list of large integers becomes float64 and neighbours become one.
        key = np.array([self.settings.seed, number], np.uint64)
        counter = np.array([0, 0, 0, stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def _parameters(
        self, number: int, n: int, stack_name: str, micrograph_name: str
    ) -> tuple[ParticleTable, NDArray[np.bool_]]:
        s = self.settings
        rng = self._generator(number, _PARAMETERS)
        mean_defocus = rng.uniform(*s.defocus_range_angstrom)
        astigmatism_angle = rng.uniform(-90, 90)
        rotation = _random_views(rng, n, s.view_concentration)
        shift = rng.normal(0, s.shift_sigma_angstrom, (n, 2))
        defocus = mean_defocus + rng.normal(0, s.defocus_spread_angstrom, n)
        is_junk = rng.random(n) < s.junk_fraction
        table = ParticleTable(
            optics_groups=self.optics_groups,
            stack_names=(stack_name,),
            optics_group_index=np.full(n, number % s.n_optics_groups, np.int32),
            stack_number=np.zeros(n, np.int32),
            stack_index=np.arange(n, dtype=np.int32),
            defocus_u_angstrom=(defocus + s.astigmatism_angstrom / 2).astype(np.float32),
            defocus_v_angstrom=(defocus - s.astigmatism_angstrom / 2).astype(np.float32),
            astigmatism_angle_degrees=np.full(n, astigmatism_angle, np.float32),
            phase_shift_degrees=np.full(n, s.phase_shift_degrees, np.float32),
            rotation=rotation.astype(np.float32),
            shift_angstrom=shift.astype(np.float32),
            micrograph_names=(micrograph_name,) * n,
        )
        return table, is_junk

    def _signal(self, table: ParticleTable) -> NDArray[np.float32]:
        # the table always has both: it was made by _parameters
        assert table.rotation is not None
        assert table.shift_angstrom is not None
        return self._projector.project(
            table.rotation,
            table.shift_angstrom,
            table.ctf_coefficients(),
            envelope_b_factor=self.settings.envelope_b_factor,
        )

    def _calibrate(self) -> float:
        """Return the root mean variance of the signal over particles that no micrograph holds."""
        # One particle a micrograph: the signal depends on the defocus more than on the view.
        numbers = range(_CALIBRATION_NUMBER, _CALIBRATION_NUMBER + _N_CALIBRATION)
        signals = (self._signal(self._parameters(number, 1, "", "")[0]) for number in numbers)
        variance = np.mean([signal.var(dtype=np.float64) for signal in signals])
        if not variance > 0:
            raise ConfigError("simulation: expected a specimen with some density, found an empty map")
        return float(np.sqrt(variance))

    def _signal_scale(self) -> float:
        snr = self.settings.snr
        return (float(np.sqrt(snr)) if np.isfinite(snr) else 1.0) / self._signal_deviation

    def _noise(self, number: int, n: int) -> NDArray[np.float32]:
        rng = self._generator(number, _NOISE)
        noise = rng.standard_normal((n, self.box_size, self.box_size), np.float32)
        if self._noise_filter is None:
            return noise
        spectrum = scipy.fft.rfft2(noise) * self._noise_filter
        return cast("NDArray[np.float32]", scipy.fft.irfft2(spectrum, s=noise.shape[1:]))


def _random_views(rng: np.random.Generator, n: int, concentration: float) -> NDArray[np.float64]:
    """Draw n rotations whose view direction follows Watson's distribution about z."""
    rot, psi = rng.uniform(-180, 180, (2, n))
    quantile = rng.random(n)
    sign = rng.choice([-1.0, 1.0], n)
    u = np.linspace(0, 1, 4097)
    density = np.exp(concentration * (u * u - max(0.0, np.sign(concentration))))
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    cosine = sign * np.interp(quantile, cumulative / cumulative[-1], u)
    return rotation_from_euler(np.stack([rot, np.rad2deg(np.arccos(cosine)), psi], axis=1))


def _noise_filter(box_size: int) -> NDArray[np.float32]:
    """Return the amplitude of coloured noise on the half-plane, 1 in the mean square.

    0.3 + 0.7 / (1 + (f / 0.35)^2) with f in units of Nyquist: falls to a third at Nyquist, as with a film scanner or
    a scintillator camera.
    """
    fy, fx = np.fft.fftfreq(box_size)[:, None] * 2, np.fft.rfftfreq(box_size) * 2
    amplitude = 0.3 + 0.7 / (1 + (fx * fx + fy * fy) / 0.35**2)
    # columns other than the first and the last stand for two coefficients of the whole plane
    count = np.full(len(fx), 2.0)
    count[0] = count[-1] = 1.0
    mean_square = (amplitude**2 * count).sum() / box_size**2
    scaled: NDArray[np.float32] = (amplitude / np.sqrt(mean_square)).astype(np.float32)
    return scaled

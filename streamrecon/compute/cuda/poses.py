"""The CUDA backend's part for poses: scores, weights, new samples, residuals, insertion."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import numpy as np

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.base import THREADS, WARP, Base
from streamrecon.compute.cuda.device import Device
from streamrecon.fourier.points import HalfPlanePoints

_SCORE_THREADS = 128
_POSES_PER_BLOCK = 16  # as in slices.cu
_PROPOSE_THREADS = 64
_CORE = 8  # grid points around the origin that a block sums in shared memory: 31 KiB
_BLOCKS_PER_MULTIPROCESSOR = 2
_HALF_RANGE = 32768.0  # half precision reaches 65504
_PACKED_CUBES = 4

CubePrecision = Literal["single", "half"]


class PoseKernels(Base):
    """See `compute.backend.Backend` for what each method returns.

    Parameters
    ----------
    device : Device
    cube_precision : {"single", "half"}
        What poses are scored against: the cube itself, or pairs of half-precision floats, half as many bytes to gather.
        Residuals, references of the search and accumulators stay in single precision.
    """

    def __init__(self, device: Device, cube_precision: CubePrecision = "single") -> None:
        super().__init__(device)
        self.cube_precision = cube_precision
        self._packed: OrderedDict[int, tuple[Array, Array, Array]] = OrderedDict()

    def _half_precision(self, cube: Array) -> tuple[Array, Array]:
        """Return the cube as half-precision pairs, and what their values are to be multiplied by, (1,)."""
        key = id(cube)
        if key not in self._packed:
            scale = self._xp.maximum(abs(cube).max(), 1e-30).reshape(1) / np.float32(_HALF_RANGE)
            packed = self._empty(*cube.shape[:3], dtype=np.uint32)
            self._launch_each("pack_cube", packed.size, cube, scale, packed.size, packed)
            self._packed[key] = (cube, packed, scale)
            if len(self._packed) > _PACKED_CUBES:
                self._packed.popitem(last=False)
        return self._packed[key][1:]

    def score(
        self, cube: Array, pad: int, points: HalfPlanePoints, box_size: int, weighed: Array, rotation: Array,
        shift: Array,
    ) -> Array:  # fmt: skip
        """Return the log-likelihood ratio of each pose."""
        n, k = rotation.shape[:2]
        out = self._empty(n, k)
        name, source = "score_poses", [cube]
        if self.cube_precision == "half":
            name, source = "score_poses_half", [*self._half_precision(cube)]
        self._launch(
            name, n * -(-k // _POSES_PER_BLOCK), _SCORE_THREADS, *source, cube.shape[2] - 1, pad,
            self._tables.of(points.kx), self._tables.of(points.ky), self._contiguous(weighed),
            self._contiguous(rotation), self._contiguous(shift), n, k, len(points), -2.0 / box_size, out,
            shared=4 * _POSES_PER_BLOCK * (8 + _SCORE_THREADS // WARP),
        )  # fmt: skip
        return out

    def normalise(self, log_likelihood: Array, density: Array, temperature: float) -> tuple[Array, Array]:
        """Return importance weights and (log mean weight, ESS, best sample)."""
        n, k = log_likelihood.shape
        weight, summary = self._empty(n, k), self._empty(n, 3)
        self._launch_warps("normalise_weights", n, log_likelihood, density, n, k, 1 / temperature, weight, summary)
        return weight, summary

    def propose(
        self, rotation: Array, shift: Array, weight: Array, rotation_half_width: float,
        shift_half_width: float, shift_area: float, start: Array, uniform: Array,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """Draw poses around weighted ones."""
        n, k = uniform.shape[:2]
        m = weight.shape[1]
        volume = (2 * rotation_half_width) ** 3 / (8 * np.pi**2) * (2 * shift_half_width) ** 2 / shift_area
        new_rotation, new_shift, density = self._empty(n, k, 3, 3), self._empty(n, k, 2), self._empty(n, k)
        self._launch(
            "propose_around", n, _PROPOSE_THREADS, rotation, shift, weight, self._contiguous(start),
            self._contiguous(uniform), m, k, rotation_half_width, shift_half_width, volume, new_rotation, new_shift,
            density, shared=8 * m,
        )  # fmt: skip
        return new_rotation, new_shift, density

    def residual(
        self, cube: Array, pad: int, points: HalfPlanePoints, box_size: int, n_shells: int,
        observed: tuple[Array, Array, Array], rotation: Array, shift: Array,
    ) -> Array:  # fmt: skip
        """Return the mean residual power by shell at one pose an image."""
        n = len(rotation)
        out = self._empty(n, n_shells)
        self._launch(
            "residual_power", n, THREADS, cube, cube.shape[2] - 1, pad, self._tables.of(points.kx),
            self._tables.of(points.ky), self._tables.of(points.shell), *observed, rotation, shift, len(points),
            n_shells, -2.0 / box_size, out, shared=8 * n_shells,
        )  # fmt: skip
        return out

    def insert(
        self, accumulator: Array, pad: int, points: HalfPlanePoints, box_size: int, weighed: Array,
        rotation: Array, shift: Array, weight: Array, minimum_weight: float, gain: float,
    ) -> None:  # fmt: skip
        """Add weighted images into an accumulator; how many slices is known on the device only."""
        n, k = weight.shape
        radius = accumulator.shape[2] - 1
        core = min(_CORE, radius)
        blocks = min(n * k, _BLOCKS_PER_MULTIPROCESSOR * self._device.multiprocessors)
        whole = self._contiguous(weight)
        count, listed = self._xp.zeros(1, np.int32), self._empty(n * k, dtype=np.int32)
        self._launch_each("list_poses", n * k, whole, n * k, minimum_weight, count, listed)
        self._launch(
            "insert_slices", blocks, THREADS, accumulator, radius, pad, self._tables.of(points.kx),
            self._tables.of(points.ky), self._contiguous(weighed), self._contiguous(rotation),
            self._contiguous(shift), whole, count, listed, n, k, len(points), -2.0 / box_size, gain, core,
            shared=12 * (2 * core + 1) ** 2 * (core + 1),
        )  # fmt: skip

    def normal(
        self, cube: Array, accumulator: Array, pad: int, points: HalfPlanePoints, power: Array, rotation: Array,
        weight: Array, minimum_weight: float, gain: float,
    ) -> None:  # fmt: skip
        """Add what insertion makes of a cube's own slices to an accumulator's numerator."""
        n, k = weight.shape
        radius = accumulator.shape[2] - 1
        core = min(_CORE, radius)
        blocks = min(n * k, _BLOCKS_PER_MULTIPROCESSOR * self._device.multiprocessors)
        self._launch(
            "normal_slices", blocks, THREADS, cube, accumulator, radius, pad, self._tables.of(points.kx),
            self._tables.of(points.ky), self._contiguous(power), self._contiguous(rotation),
            self._contiguous(weight), n, k, len(points), minimum_weight, gain, core,
            shared=8 * (2 * core + 1) ** 2 * (core + 1),
        )  # fmt: skip

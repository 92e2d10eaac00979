"""What would a cheaper map cost the likelihood? Emulated on the CPU, on simulated particles, at poses near the truth.

Three ways to hold the map that poses are scored against, each compared with single precision read exactly:

half       pairs of half-precision floats (compute.cube_precision = "half"): half the bytes
texture    a 3D texture of single precision: free interpolation, but its fractions have 8 bits
both       a texture of half-precision pairs

For each: the standard deviation and the largest change of log-likelihood differences between an image's poses, in nats,
which is what posterior weights are made of; beside them the spread of the differences themselves. A change well below
1 nat does not show in a posterior. A minute or less.

Example: python -m benchmarks.gpu_precision --box 64
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import HalfPlanePoints, half_plane_points
from streamrecon.geometry.rotation import random_rotations
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings

_PAD = 2
_IMAGES, _POSES = 24, 8
_JITTER = 0.03  # radians: about the width of a posterior
_FRACTION_STEPS = 256  # 1.8 fixed point, CUDA C++ Programming Guide, "Linear Filtering"
_HALF_RANGE = 32768.0


def slices(
    cube: NDArray[np.float32], points: HalfPlanePoints, rotation: NDArray[np.float64], fraction_steps: int | None
) -> NDArray[np.complex128]:
    """Return central slices (n, n_points); the fractions of the interpolation rounded to so many steps."""
    radius = cube.shape[2] - 1
    k = np.stack([points.kx, points.ky]).astype(np.float64)
    place = _PAD * np.einsum("nac,cp->nap", rotation[:, :, :2], k)  # x, y, z
    sign = np.where(place[:, 0] >= 0, 1.0, -1.0)
    place *= sign[:, None]
    place[:, 1:] += radius
    low = np.floor(place).astype(int)
    fraction = place - low
    if fraction_steps is not None:
        fraction = np.round(fraction * fraction_steps) / fraction_steps
    values = cube.astype(np.float64)
    complex_cube = values[..., 0] + 1j * values[..., 1]
    out = np.zeros(sign.shape, np.complex128)
    for corner in range(8):
        step = [corner & 1, corner >> 1 & 1, corner >> 2]
        weight = np.prod([fraction[:, a] if step[a] else 1 - fraction[:, a] for a in range(3)], axis=0)
        out += weight * complex_cube[low[:, 2] + step[2], low[:, 1] + step[1], low[:, 0] + step[0]]
    return out.real + 1j * out.imag * sign


def as_half(cube: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cube as the device holds it in half precision: scaled to its range, rounded."""
    scale = np.abs(cube).max() / _HALF_RANGE
    return np.asarray((cube / scale).astype(np.float16).astype(np.float32) * scale, np.float32)


def measure(box: int) -> list[dict[str, Any]]:
    """Return a row for each way to hold the map."""
    specimen = f1_atpase(box)
    settings = MicroscopeSettings(pixel_size_angstrom=specimen.pixel_size_angstrom, snr=0.1)
    scale = np.float32(Microscope(specimen.volume, settings)._signal_scale())
    (batch, rotation), *_ = batches(specimen, _IMAGES, 0.1, seed=5, size=_IMAGES)
    backend = CpuBackend(1)
    points = half_plane_points(int(0.9 * box / 2))
    cube = backend.cube(specimen.volume * scale, _PAD, _PAD * points.k_max + 2)
    transforms = backend.image_transforms(batch.images, np.ones((box, box), np.float32))
    real, imaginary = backend.half_plane(transforms, points)
    step = np.full(_IMAGES, 1 / (box * specimen.pixel_size_angstrom), np.float32)
    ctf = backend.ctf(batch.table.ctf_coefficients(), points.kx, points.ky, step)
    noise = np.full((_IMAGES, box // 2 + 1), 1 / box**2, np.float32)  # variance 1 a pixel
    cross_re, cross_im, power = backend.weigh(real, imaginary, ctf, points.shell, noise).astype(np.float64)
    shift = np.asarray(batch.table.shift_angstrom, np.float64) / specimen.pixel_size_angstrom
    k = np.stack([points.kx, points.ky]).astype(np.float64)
    phase = np.exp(-2j * np.pi * (shift @ k) / box)
    rng = np.random.default_rng(0)
    turns = random_rotations(rng, _POSES)
    angle = np.array([0.0, *rng.uniform(-_JITTER, _JITTER, _POSES - 1)])
    axis = turns[:, :, 2]

    def scores(held: NDArray[np.float32], steps: int | None) -> NDArray[np.float64]:
        columns = []
        for j in range(_POSES):
            poses = _turn(axis[j], angle[j]) @ rotation.astype(np.float64)
            s = slices(held, points, poses, steps)
            moved = s * phase
            columns.append((cross_re * moved.real + cross_im * moved.imag - power * np.abs(s) ** 2).sum(axis=1))
        return np.stack(columns, axis=1)

    exact = scores(cube, None)
    spread = exact - exact[:, :1]
    rows = []
    ways = {"half": (as_half(cube), None), "texture": (cube, _FRACTION_STEPS), "both": (as_half(cube), _FRACTION_STEPS)}
    for name, (held, steps) in ways.items():
        found = scores(held, steps)
        change = (found - found[:, :1]) - spread
        rows.append({
            "map held as": name, "std of change, nats": float(change[:, 1:].std()),
            "largest, nats": float(np.abs(change).max()), "std of differences, nats": float(spread[:, 1:].std()),
        })  # fmt: skip
    return rows


def _turn(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--box", type=int, choices=[64, 128], help="only this box size")
    chosen = options.parse_args()
    print_machine()
    result: dict[str, Any] = {}
    for box in (64, 128):
        if chosen.box in (None, box):
            rows = measure(box)
            print(f"\n{box} px, {_IMAGES} images, {_POSES} poses within {_JITTER} radians of the truth; emulated")
            print_table(rows)
            result[f"box_{box}"] = rows
    write_json(chosen.json, result)


if __name__ == "__main__":
    main()

"""Central slices at given poses: extract, score against images, measure residuals, insert."""

from __future__ import annotations

import numpy as np
from numba import njit

from streamrecon.compute.cpu_kernels.simd import gather_trilinear, scatter_trilinear, unit_phase

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
# Points that all poses of an image go through before the next ones: poses lie close together, so what one gathers from
# the cube, or scatters into the sums, is in the second-level cache for those after it. At 112 shells it is a third of
# the time (benchmarks/roofline.py); the band of a 64 px box is a single tile.
TILE_POINTS = 1536


@njit(inline="always")
def locate(rotation, kx, ky, pad, radius, step_y, step_z, base, fx, fy, fz, sign, width):
    """Find where each slice point falls in a half-space cube.

    rotation (3, 3): the slice at (kx, ky) is the volume at rotation @ (kx, ky, 0). Written, each
    (n_points,): base (index of the lower corner in floats, ``width`` floats a voxel), the fractions,
    and sign (-1 where the point was folded to its Friedel mate).
    """
    r0, r1 = pad * rotation[0, 0], pad * rotation[0, 1]
    r2, r3 = pad * rotation[1, 0], pad * rotation[1, 1]
    r4, r5 = pad * rotation[2, 0], pad * rotation[2, 1]
    for p in range(kx.shape[0]):
        x = r0 * kx[p] + r1 * ky[p]
        y = r2 * kx[p] + r3 * ky[p]
        z = r4 * kx[p] + r5 * ky[p]
        s = _ONE if x >= _ZERO else -_ONE
        x, y, z = x * s, y * s + radius, z * s + radius
        ix, iy, iz = np.int32(x), np.int32(y), np.int32(z)  # all are positive: truncation is floor
        fx[p], fy[p], fz[p] = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
        sign[p] = s
        base[p] = iz * step_z + iy * step_y + np.int32(width) * ix


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def extract_slices(cube, pad, kx, ky, rotation, out_re, out_im):
    """Extract central slices: cube (z, y, x, 2) float32; rotation (n, 3, 3); out (n, n_points), written."""
    radius = np.float32(cube.shape[2] - 1)
    step_y = np.int32(2 * cube.shape[2])
    step_z = np.int32(step_y * cube.shape[1])
    flat = cube.reshape(-1)
    m = kx.shape[0]
    fx, fy, fz, sign = np.empty((4, m), np.float32)
    base = np.empty(m, np.int32)
    for i in range(rotation.shape[0]):
        locate(rotation[i], kx, ky, np.float32(pad), radius, step_y, step_z, base, fx, fy, fz, sign, 2)
        for p in range(m):
            re, im = gather_trilinear(flat, np.int64(base[p]), np.int64(step_y), np.int64(step_z), fx[p], fy[p], fz[p])
            out_re[i, p] = re
            out_im[i, p] = im * sign[p]


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def score_poses(cube, pad, kx, ky, box_size, cross_re, cross_im, power_weight, rotation, shift, out):
    """Log-likelihood ratio of each image at each of its own poses.

    cube (z, y, x, 2); cross, power_weight (n, n_points) from `weight_half_plane`; rotation (n, K, 3, 3);
    shift (n, K, 2) float32, pixels; out (n, K) float32, written.
    """
    radius = np.float32(cube.shape[2] - 1)
    step_y = np.int32(2 * cube.shape[2])
    step_z = np.int32(step_y * cube.shape[1])
    flat = cube.reshape(-1)
    fx, fy, fz, sign = np.empty((4, TILE_POINTS), np.float32)
    re, im = np.empty((2, TILE_POINTS), np.float32)
    base = np.empty(TILE_POINTS, np.int32)
    for i in range(rotation.shape[0]):
        out[i, :] = _ZERO
        for start in range(0, kx.shape[0], TILE_POINTS):
            tile = slice(start, min(kx.shape[0], start + TILE_POINTS))
            x, y = kx[tile], ky[tile]
            image_re, image_im, power = cross_re[i, tile], cross_im[i, tile], power_weight[i, tile]
            for j in range(rotation.shape[1]):
                locate(rotation[i, j], x, y, np.float32(pad), radius, step_y, step_z, base, fx, fy, fz, sign, 2)
                for p in range(x.shape[0]):
                    re[p], im[p] = gather_trilinear(
                        flat, np.int64(base[p]), np.int64(step_y), np.int64(step_z), fx[p], fy[p], fz[p]
                    )
                turns_x, turns_y = -shift[i, j, 0] / np.float32(box_size), -shift[i, j, 1] / np.float32(box_size)
                total = _ZERO
                for p in range(x.shape[0]):
                    a, b = re[p], im[p] * sign[p]
                    phase_re, phase_im = unit_phase(turns_x * x[p] + turns_y * y[p])
                    moved_re = a * phase_re - b * phase_im
                    moved_im = a * phase_im + b * phase_re
                    total += image_re[p] * moved_re + image_im[p] * moved_im
                    total -= power[p] * (a * a + b * b)
                out[i, j] += total


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def residual_power(cube, pad, kx, ky, box_size, shell, real, imaginary, ctf, rotation, shift, out):
    """Mean of |I - C S P|^2 over each shell, one pose an image: out (n, n_shells) float32, written."""
    radius = np.float32(cube.shape[2] - 1)
    step_y = np.int32(2 * cube.shape[2])
    step_z = np.int32(step_y * cube.shape[1])
    flat = cube.reshape(-1)
    m = kx.shape[0]
    fx, fy, fz, sign = np.empty((4, m), np.float32)
    base = np.empty(m, np.int32)
    n_shells = out.shape[1]
    count = np.zeros(n_shells, np.float32)
    for p in range(m):
        count[shell[p]] += _ONE
    for i in range(rotation.shape[0]):
        locate(rotation[i], kx, ky, np.float32(pad), radius, step_y, step_z, base, fx, fy, fz, sign, 2)
        turns_x, turns_y = -shift[i, 0] / np.float32(box_size), -shift[i, 1] / np.float32(box_size)
        out[i, :] = _ZERO
        for p in range(m):
            a, b = gather_trilinear(flat, np.int64(base[p]), np.int64(step_y), np.int64(step_z), fx[p], fy[p], fz[p])
            b *= sign[p]
            phase_re, phase_im = unit_phase(turns_x * kx[p] + turns_y * ky[p])
            d_re = real[i, p] - ctf[i, p] * (a * phase_re - b * phase_im)
            d_im = imaginary[i, p] - ctf[i, p] * (a * phase_im + b * phase_re)
            out[i, shell[p]] += d_re * d_re + d_im * d_im
        for s in range(n_shells):
            if count[s] > _ZERO:
                out[i, s] /= count[s]


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def insert_slices(
    accumulator, pad, kx, ky, box_size, cross_re, cross_im, power_weight,
    rotation, shift, weight, minimum_weight, gain,
):  # fmt: skip
    """Add weighted images to an accumulator: the adjoint of extraction, shift and CTF.

    accumulator (z, y, x, 4) float32: numerator re, im, weight, unused; images as in `score_poses`;
    weight (n, K): poses below minimum_weight are left out; gain: a factor for all.
    Returns the number of slices inserted.
    """
    radius = np.float32(accumulator.shape[2] - 1)
    step_y = np.int32(4 * accumulator.shape[2])
    step_z = np.int32(step_y * accumulator.shape[1])
    flat = accumulator.reshape(-1)
    fx, fy, fz, sign = np.empty((4, TILE_POINTS), np.float32)
    re, im = np.empty((2, TILE_POINTS), np.float32)
    base = np.empty(TILE_POINTS, np.int32)
    inserted = 0
    for i in range(rotation.shape[0]):
        for start in range(0, kx.shape[0], TILE_POINTS):
            tile = slice(start, min(kx.shape[0], start + TILE_POINTS))
            x, y = kx[tile], ky[tile]
            image_re, image_im, power = cross_re[i, tile], cross_im[i, tile], power_weight[i, tile]
            for j in range(rotation.shape[1]):
                if weight[i, j] < minimum_weight:
                    continue
                if start == 0:
                    inserted += 1
                w = np.float32(weight[i, j] * gain)
                half_w = np.float32(0.5) * w  # cross holds a factor two
                locate(rotation[i, j], x, y, np.float32(pad), radius, step_y, step_z, base, fx, fy, fz, sign, 4)
                turns_x, turns_y = -shift[i, j, 0] / np.float32(box_size), -shift[i, j, 1] / np.float32(box_size)
                # apart from the scatter, which no compiler vectorises
                for p in range(x.shape[0]):
                    phase_re, phase_im = unit_phase(turns_x * x[p] + turns_y * y[p])
                    re[p] = half_w * (image_re[p] * phase_re + image_im[p] * phase_im)
                    im[p] = half_w * sign[p] * (image_im[p] * phase_re - image_re[p] * phase_im)
                for p in range(x.shape[0]):
                    scatter_trilinear(
                        flat, np.int64(base[p]), np.int64(step_y), np.int64(step_z), fx[p], fy[p], fz[p],
                        re[p], im[p], w * power[p],
                    )  # fmt: skip
    return inserted


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def normal_slices(cube, accumulator, pad, kx, ky, power_weight, rotation, weight, minimum_weight, gain):
    """Add what insertion makes of a cube's own slices: extraction, times power weight, and its adjoint.

    cube (z, y, x, 2); accumulator (z, y, x, 4), of which only the numerator grows; power_weight (n, n_points);
    rotation (n, K, 3, 3); weight (n, K): poses below minimum_weight are left out; gain: a factor for all. Shifts are
    undone by their adjoint, and a point folded to its Friedel mate is folded back: neither shows.
    """
    radius = np.float32(cube.shape[2] - 1)
    step_y = np.int32(2 * cube.shape[2])
    step_z = np.int32(step_y * cube.shape[1])
    from_, to = cube.reshape(-1), accumulator.reshape(-1)
    m = kx.shape[0]
    fx, fy, fz, sign = np.empty((4, m), np.float32)
    base = np.empty(m, np.int32)
    for i in range(rotation.shape[0]):
        for j in range(rotation.shape[1]):
            if weight[i, j] < minimum_weight:
                continue
            w = np.float32(weight[i, j] * gain)
            locate(rotation[i, j], kx, ky, np.float32(pad), radius, step_y, step_z, base, fx, fy, fz, sign, 2)
            for p in range(m):
                at = np.int64(base[p])
                re, im = gather_trilinear(from_, at, np.int64(step_y), np.int64(step_z), fx[p], fy[p], fz[p])
                factor = w * power_weight[i, p]
                scatter_trilinear(
                    to, 2 * at, np.int64(2 * step_y), np.int64(2 * step_z), fx[p], fy[p], fz[p],
                    factor * re, factor * im, _ZERO,
                )  # fmt: skip


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def extract_points(cube, pad, points, rotation, out_re, out_im):
    """Values of a cube at rotated 3D frequencies: points (m, 3) as (x, y, z); rotation (n, 3, 3); out (n, m)."""
    radius = np.float32(cube.shape[2] - 1)
    step_y = np.int64(2 * cube.shape[2])
    step_z = np.int64(step_y * cube.shape[1])
    flat = cube.reshape(-1)
    factor = np.float32(pad)
    for i in range(rotation.shape[0]):
        r = rotation[i]
        for p in range(points.shape[0]):
            a, b, c = points[p, 0], points[p, 1], points[p, 2]
            x = factor * (r[0, 0] * a + r[0, 1] * b + r[0, 2] * c)
            y = factor * (r[1, 0] * a + r[1, 1] * b + r[1, 2] * c)
            z = factor * (r[2, 0] * a + r[2, 1] * b + r[2, 2] * c)
            s = _ONE if x >= _ZERO else -_ONE
            x, y, z = x * s, y * s + radius, z * s + radius
            ix, iy, iz = np.int64(x), np.int64(y), np.int64(z)
            fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
            re, im = gather_trilinear(flat, iz * step_z + iy * step_y + 2 * ix, step_y, step_z, fx, fy, fz)
            out_re[i, p] = re
            out_im[i, p] = s * im

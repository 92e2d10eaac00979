"""What each kernel of the CPU backend has to compute and to move, by formula; used by `benchmarks.roofline`.

A multiplication or an addition is one FLOP, an exponential 14 (its polynomial, `exp_fast`), a sine or cosine 20. Bytes
are what a kernel asks of the memory below its registers: every streamed array once in and once out, every gather and
scatter in full. Temporaries of one image that stay in the first-level cache are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2


@dataclass(frozen=True)
class Shapes:
    """Sizes that the formulas need.

    Attributes
    ----------
    box, small_box : int
        Of the image, and of the cropped one that the polar transform reads.
    rings, half, frequencies : int
        R rings of H samples on half a turn, Q angular frequencies (Q = H).
    shifts, directions, angles : int
        S shifts, D antipodal pairs of directions, J positive in-plane angles: 4 S D J cells.
    points : int
        M half-plane points of the band.
    samples : int
        K cells drawn.
    scored : float
        Poses scored, those on a narrower band by their share of the points.
    inserted : float
        Slices inserted an image (measured).
    chunk : int
        Images that go through the kernels together.
    cube_bytes, accumulator_bytes : int
    map_box, padded_box : int
        Of the solved map, and of its padded transform.
    update_images : int
        Images between two solutions of the map.
    tile_points : int
        Points that all poses of an image go through before the next ones; 0: all of them.
    """

    box: int
    small_box: int
    rings: int
    half: int
    frequencies: int
    shifts: int
    directions: int
    angles: int
    points: int
    samples: int
    scored: float
    inserted: float
    chunk: int
    cube_bytes: int
    accumulator_bytes: int
    map_box: int
    padded_box: int
    update_images: int
    tile_points: int = 0


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes an image; ``working_set`` bytes decide which memory they come from."""

    flops: float
    bytes: float
    working_set: float


def kernel_costs(s: Shapes) -> dict[str, Cost]:
    """Return the cost of one call of each kernel, an image."""
    ring_points = s.rings * s.half
    columns = s.shifts * s.directions
    rows = s.shifts * s.rings
    spectra = 8 * s.frequencies * rows  # image coefficients, re and im
    products = 16 * s.frequencies * columns
    planes = 16 * s.angles * columns
    slice_coefficients = 8 * s.frequencies * s.rings * s.directions
    # (small box)^2 pixels into re and im of every ring point
    matrix = 4 * s.small_box**2 * 2 * ring_points
    weighed = 12 * s.points
    # poses of an image lie close together: a tile's points touch four cache lines each, again and again
    tile = 4 * 64 * s.tile_points if s.tile_points else s.accumulator_bytes
    return {
        # a real 2D FFT of N pixels: 2.5 N log2 N; the mask multiplies once
        "image FFT": Cost(
            2.5 * s.box**2 * log2(s.box**2) + s.box**2, 4 * s.box**2 + 4 * s.box**2 + 4 * s.box**2, 12 * s.box**2
        ),
        # one GEMM (images, b^2) x (b^2, 2 R H), and the inverse FFT of the cropped image before it
        "polar transform": Cost(
            4 * s.small_box**2 * ring_points + 2.5 * s.small_box**2 * log2(s.small_box**2),
            matrix / s.chunk + 4 * s.small_box**2 + 8 * ring_points,
            matrix,
        ),
        # each of S shifts: weigh (3) and turn by the phase (6); the phases (2 sines) are shared by a chunk
        "shift_rings": Cost(
            (9 + 44 / s.chunk) * s.shifts * ring_points,
            8 * s.shifts * ring_points + 12 * ring_points,
            8 * s.shifts * ring_points * s.chunk,
        ),
        # Q even or odd frequencies, re and im, from H samples of one part: a GEMM row of 2 Q H multiply-adds
        "angular DFT": Cost(
            4 * s.frequencies * s.half * rows, 8 * s.half * rows + spectra, (8 * s.half * rows + spectra) * s.chunk
        ),
        # GEMM over rings: 4 real products of (S, R) x (R, D) a frequency; over frequencies: 4 planes (J, Q) x (Q, S D)
        "correlate": Cost(
            8 * s.frequencies * s.shifts * s.rings * s.directions + 8 * s.angles * s.frequencies * columns,
            spectra + slice_coefficients / s.chunk + 2 * products + planes,
            (products + planes) * s.chunk,
        ),
        # a + max(b + |c - d|, |c + d| - b), compared: 9 a plane column
        "best_cell": Cost(9 * s.angles * columns, planes, planes * s.chunk),
        # 4 cells a column: 5 to put together, an exponential, 5 for mass, square and moment
        "cell_masses": Cost(4 * 24 * s.angles * columns, planes, planes * s.chunk),
        # a draw goes over its column: 4 J cells of 5 and an exponential; 4 planes, a cache line each
        "draw_cells": Cost(
            s.samples * 4 * s.angles * 19, s.samples * s.angles * 4 * 64 + 4 * columns, planes * s.chunk
        ),
        # a point of a slice: locate 17, eight corners 42, phase 28, likelihood 16; 64 bytes gathered
        "score_poses": Cost(103 * s.scored * s.points, 64 * s.scored * s.points + weighed, min(tile, s.cube_bytes)),
        # locate 17, turn 6, phase 28, weights of 8 lanes 18, 4 x 8 lanes of multiply-add 64; 128 bytes in and out
        "insert_slices": Cost(
            133 * s.inserted * s.points, 256 * s.inserted * s.points + weighed, min(tile, s.accumulator_bytes)
        ),
        # an update: 3 inverse FFTs and 1 FFT of M^3, 2 FFTs of the half maps; three passes in and out each, the
        # accumulators read 4 times, slices of all D directions; shared by the images between two updates
        "solve + cube": Cost(
            (
                4 * 2.5 * s.padded_box**3 * log2(s.padded_box**3)
                + 2 * 2.5 * s.map_box**3 * log2(s.map_box**3)
                + 59 * s.directions * ring_points
            )
            / s.update_images,
            (24 * (4 * s.padded_box**3 + 2 * s.map_box**3) + 6 * s.accumulator_bytes + s.cube_bytes) / s.update_images,
            8 * s.padded_box**3,
        ),
    }

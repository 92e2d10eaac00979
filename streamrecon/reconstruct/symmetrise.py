"""Imposing a point group on the sums of a half, in the reconstruction's own frame or turned into the published one.

The sums themselves stay as the images gave them, so that contributions can be taken out again; the copies are added up
anew each time a map is solved. Each half has its own: what is imposed makes them no more alike than the group does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.compute.cpu_kernels.symmetry import add_copies, join_mates
from streamrecon.geometry.orientation import Orientation
from streamrecon.reconstruct.accumulator import Accumulator


def symmetrised(
    backend: Backend, accumulator: Accumulator, k_max: int, box_size: int, orientation: Orientation, *, published: bool
) -> Accumulator:
    """Return sums to which every operator of the group has added its copy; the given ones stay as they are.

    Parameters
    ----------
    accumulator : Accumulator
    k_max : int
        Points up to here are made, and a margin.
    box_size : int
        Of the images: what phases of the axes' centre refer to.
    orientation : Orientation
    published : bool
        Turn the sums into the published frame, the axes' centre to the box centre.

    Notes
    -----
    With S = Q g Q^T (or Q g, published) a copy is V(S x + d), whose transform is exp(2 pi i (S k).d / N) V(S k), with
    d = c - S c (or c). Read trilinearly on the padded grid, as RELION does it. A device's sums are copied to the host.
    """
    pad = accumulator.pad
    turns = orientation.operators
    center = np.asarray(orientation.center, np.float64)
    lag = 2 * np.pi / (box_size * pad) * (turns.transpose(0, 2, 1) @ center - center)  # (order, 3)
    if published:
        turns = turns @ orientation.rotation
        lag = 2 * np.pi / (box_size * pad) * (turns.transpose(0, 2, 1) @ center)
    reach = pad * min(k_max + 2, accumulator.radius // pad)
    return _copies(backend, accumulator, reach, turns, lag)


def _copies(
    backend: Backend, accumulator: Accumulator, reach: int, turns: NDArray[np.floating], lag: NDArray[np.floating]
) -> Accumulator:
    """Return the sum of turned copies; see `add_copies`."""
    grid = np.ascontiguousarray(backend.to_host(accumulator.grid), np.float32)
    joined, out = np.empty_like(grid), np.empty_like(grid)
    join_mates(grid, joined)
    add_copies(joined, reach, _single(turns), _single(lag), out)
    copies = Accumulator(backend, accumulator.pad, 0)
    copies.load(backend.to_device(out), accumulator.gain, accumulator.level)
    return copies


def _single(values: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)


def turned_map(backend: Backend, volume: Array, pad: int, k_max: int, box_size: int, orientation: Orientation) -> Array:
    """Return a map of the own frame as it is published, nothing imposed, (map_box,)*3.

    Parameters
    ----------
    volume : ndarray, (map_box,)*3
        Of the length of an image of ``box_size`` pixels.
    """
    held = Accumulator(backend, pad, min(k_max, len(volume) // 2 - 2))
    cube = backend.to_host(backend.cube(volume, pad, held.radius))
    grid = np.ones((*cube.shape[:3], 4), np.float32)
    grid[..., :2] = cube
    grid[:, :, 0] *= np.float32(0.5)  # as of a point and its mate, apart
    held.load(grid, 1.0, 0.0)
    lag = 2 * np.pi / (box_size * pad) * (orientation.rotation.T @ orientation.center)
    turned = _copies(backend, held, held.radius - 1, orientation.rotation[None], lag[None])
    exact = np.zeros(k_max + 2)
    return backend.solve((turned.grid, turned.grid), pad, min(k_max, len(volume) // 2 - 2), exact, 0.5, len(volume))

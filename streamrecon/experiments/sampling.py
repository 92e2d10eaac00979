"""Importance sampling measured: evaluations, FLOPs and ESS an image, and the gradient against full quadrature.

The gradient's error is held against the mini-batch's own sampling noise: the spread of single images' gradients, which
is what choosing other images would change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from streamrecon.compute.backend import Array, Backend
from streamrecon.experiments.problem import HELD_OUT_NUMBER, Problem
from streamrecon.experiments.quadrature import FullPosterior, evaluate, full_grid
from streamrecon.fourier.points import HalfPlanePoints, half_plane_points
from streamrecon.fourier.polar import PolarGrid, polar_grid
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import Observations
from streamrecon.optimise.objective import MapModel, PosedImages
from streamrecon.reconstruct.collective import ALONE, Share
from streamrecon.reconstruct.half_maps import PAD
from streamrecon.reconstruct.mapping import map_box_for, resize_volume
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.settings import EngineSettings

SLIDES_FACTOR = 100_000.0
# a point of a slice located, gathered, shifted and compared, as benchmarks/kernel_costs.py counts it
_FLOPS_PER_POINT = 103.0
_KEPT_MASS = 0.9999  # of a full posterior


@dataclass(frozen=True)
class Scene:
    """Images, a map, and the noise; what posteriors depend on."""

    backend: Backend
    poses: PoseEstimator
    observed: Observations
    inverse_noise: Array
    volume: NDArray[np.float32]
    box_size: int


def make_scene(problem: Problem, volume: NDArray[np.float32], images: int, k_max: int, backend: Backend) -> Scene:
    """Take up a map and images that it was not made from; the noise is the true one."""
    geometry = problem.geometry
    poses = PoseEstimator(EngineSettings(), geometry, backend)
    batch = next(iter(replace(problem, mini_batch=images).batches(images, HELD_OUT_NUMBER)))
    step = np.full(images, geometry.frequency_step, np.float32)
    points = half_plane_points(k_max)
    observed = poses.preparer.prepare(
        batch.images, batch.table.ctf_coefficients(), step, np.zeros(images, np.int32), points
    )
    noise = np.full((images, problem.box_size // 2 + 1), 1.0 / problem.box_size**2, np.float32)
    return Scene(backend, poses, observed, backend.to_device(noise), volume, problem.box_size)


def measure_band(
    problem: Problem,
    volume: NDArray[np.float32],
    k_max: int,
    *,
    images: int,
    grid_step: float,
    backend: Backend,
    twice: bool = True,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Measure importance sampling at one band; None if ``stop`` says so.

    Parameters
    ----------
    volume : ndarray, (box,)*3 float32
        In the images' units.
    grid_step : float
        Of the full grid, resolution elements.
    twice : bool
        Evaluate a second full grid, turned otherwise: its difference from the first is the reference's own error.
    """
    scene = make_scene(problem, volume, images, k_max, backend)
    points = half_plane_points(k_max)
    reach = max(k_max, scene.poses.search_rings)
    cube = backend.cube(backend.to_device(volume), PAD, PAD * reach + 2)
    scene.poses.set_maps((cube, cube), k_max)
    rng = np.random.default_rng(seed)
    samples, weighed = scene.poses.sample(
        scene.observed, scene.inverse_noise, points, 1.0, images, rng, Share(ALONE, images)
    )
    on_host = backend.to_host(weighed)
    grid = full_grid(problem.geometry, scene.poses.cells, k_max, grid_step)
    posteriors = []
    for turn in (None, Rotation.random(rng=rng).as_matrix())[: 1 + twice]:
        found = evaluate(grid, backend.to_host(cube), points, scene.box_size, on_host, turn, stop)
        if found is None:
            return None
        posteriors.append(found)
    model = _model(scene, points)
    vector = model.vector(backend.to_device(resize_volume(volume, model.map_box)))
    minimum = EngineSettings().minimum_weight
    sampled, scale = _gradients(scene, model, points, weighed, _each_sampled(backend, samples), vector, minimum)
    exact = [scale * _gradients(scene, model, points, weighed, _each_full(p), vector, 0.0)[0] for p in posteriors]
    own = compare(exact[1], exact[0]) if twice else {}
    evaluations = samples.evaluations / images
    search_flops, search_cells = search_cost(scene.poses, scene.box_size, problem)
    flops = _FLOPS_PER_POINT * len(points) * evaluations + search_flops
    full_flops = _FLOPS_PER_POINT * len(points) * grid.n_poses
    return {
        "k_max": k_max,
        "resolution_angstrom": problem.box_size * problem.pixel_size_angstrom / k_max,
        "images": images,
        "grid_rotations": grid.n_rotations,
        "grid_shifts": len(grid.shifts),
        "grid_poses": grid.n_poses,
        "search_cells": search_cells,
        "evaluations": evaluations,
        "factor_evaluations": grid.n_poses / evaluations,
        "flops": flops,
        "full_flops": full_flops,
        "factor_flops": full_flops / flops,
        "ess_samples": float(backend.to_host(samples.effective_sample_size).mean()),
        "ess_grid_cells": float(np.mean([p.base_sample_size for p in posteriors[0]])),
        **{f"sampled_{name}": value for name, value in compare(scale * sampled, exact[0]).items()},
        **{f"grid_{name}": value for name, value in own.items()},
        "evidence_difference": float(
            np.mean(backend.to_host(samples.log_evidence) - np.array([p.log_evidence for p in posteriors[0]]))
        ),
    }


def compare(estimate: NDArray[np.float64], exact: NDArray[np.float64]) -> dict[str, float]:
    """Hold gradients of images against exact ones, (n, n_coordinates) each.

    Returns
    -------
    dict
        ``error``: root mean square error of one image's gradient over the root mean square spread of the exact ones
        around their mean, which is the sampling noise of a mini-batch of one; both fall as 1 / sqrt(n).
        ``median``: the median image's error over the same. ``mean_error`` and ``noise``: norm of the mean error, and
        the sampling noise of the mean, over the norm of the mean gradient of these n images.
    """
    n = len(exact)
    error = estimate - exact
    mean = exact.mean(axis=0)
    spread = np.sqrt(((exact - mean) ** 2).sum() / (n - 1))
    norm = float(np.linalg.norm(mean))
    return {
        "error": float(np.sqrt((error**2).sum() / n) / spread),
        "median": float(np.median(np.linalg.norm(error, axis=1)) / spread),
        "mean_error": float(np.linalg.norm(error.mean(axis=0)) / norm),
        "noise": float(spread / np.sqrt(n) / norm),
    }


def search_cost(poses: PoseEstimator, box_size: int, problem: Problem) -> tuple[float, int]:
    """Return FLOPs an image of the global search, by `benchmarks.kernel_costs`' formulas, and its cells."""
    settings = EngineSettings()
    grid: PolarGrid = polar_grid(
        poses.search_rings, problem.geometry.particle_radius / box_size, settings.in_plane_angles
    )
    small = min(box_size, 2 * (grid.n_rings + 8))
    columns = len(poses.cells.shifts) * poses.cells.n_pairs
    frequencies, angles = len(grid.q), grid.n_psi // 2
    rows = len(poses.cells.shifts) * grid.n_rings
    polar = 4.0 * small**2 * grid.n_rings * grid.n_half
    angular = 4.0 * frequencies * grid.n_half * rows
    correlate = 8.0 * frequencies * columns * grid.n_rings + 8.0 * angles * frequencies * columns
    cells = (9.0 + 4.0 * 24.0) * angles * columns
    draw = settings.samples * 4.0 * angles * 19.0
    return polar + angular + correlate + cells + draw, poses.cells.n_cells


def _model(scene: Scene, points: HalfPlanePoints) -> MapModel:
    map_box = map_box_for(points.k_max, scene.box_size)
    mask = 1.0 + scene.backend.zeros((map_box,) * 3)
    return MapModel(scene.backend, PAD, points.k_max, map_box, mask)


def _each_sampled(backend: Backend, samples: PoseSamples) -> Sequence[FullPosterior]:
    rotation, shift, weight = (backend.to_host(a) for a in (samples.rotation, samples.shift, samples.weight))
    evidence = backend.to_host(samples.log_evidence)
    return [
        FullPosterior(rotation[i], shift[i], weight[i].astype(np.float64), float(evidence[i]))
        for i in range(len(weight))
    ]


def _each_full(posteriors: Sequence[FullPosterior]) -> Sequence[FullPosterior]:
    """Return the posteriors without the many poses that together are next to nothing."""
    out = []
    for p in posteriors:
        order = np.argsort(p.weight)[::-1]
        keep = order[: 1 + int(np.searchsorted(np.cumsum(p.weight[order]), _KEPT_MASS))]
        out.append(FullPosterior(p.rotation[keep], p.shift[keep], p.weight[keep], p.log_evidence))
    return out


def _gradients(
    scene: Scene,
    model: MapModel,
    points: HalfPlanePoints,
    weighed: Array,
    posteriors: Sequence[FullPosterior],
    vector: NDArray[np.floating],
    minimum_weight: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each image's gradient, (n, n_coordinates), and one over the root of the mean curvature by shell.

    Their product is measured in units in which the objective is about equally curved along every coordinate: else the
    few coefficients of the lowest shells would be all that counts.
    """
    to_device = scene.backend.to_device
    rows, curvature = [], np.zeros(len(model.coordinates))
    for i, p in enumerate(posteriors):
        samples = PoseSamples(
            rotation=to_device(p.rotation[None]),
            shift=to_device(p.shift[None].astype(np.float32)),
            weight=to_device(p.weight[None].astype(np.float32)),
            log_evidence=np.zeros(1, np.float32),
            effective_sample_size=np.ones(1, np.float32),
            best=np.zeros(1, np.int32),
            evaluations=0,
        )
        image = PosedImages(
            model, scene.box_size, points, weighed[:, i : i + 1], samples, minimum_weight=minimum_weight
        )
        rows.append(np.asarray(image.gradient(vector), np.float64))
        curvature += image.curvature
    by_shell = np.maximum(model.coordinates.shell_means(curvature / len(rows)), 1e-30)
    by_shell[0] = np.inf  # the mean density, of which images say nothing
    return np.stack(rows), 1.0 / np.sqrt(by_shell[model.coordinates.shell])

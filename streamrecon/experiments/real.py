"""Real particles whose poses are known: too few to find poses from nothing, enough to hold methods against each other.

Optimisers get the objective of all particles at the known poses, under a prior as strong as the data, and are held
against its exact minimum. Batch methods start from the map of the known poses, low-passed, and must find those again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.align import fsc_between
from streamrecon.compute.backend import Backend
from streamrecon.experiments.measures import score_poses
from streamrecon.experiments.methods import ONLINE_EM, method_settings
from streamrecon.experiments.store import Result
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.polar import polar_grid
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry, Preparer
from streamrecon.io import check_stack, fill_box_size, probe_stack, read_images, read_manifest
from streamrecon.optimise.interface import Vector, dot
from streamrecon.optimise.methods import make_optimiser
from streamrecon.optimise.objective import MapModel, PosedImages
from streamrecon.particles import ParticleBatch
from streamrecon.peers.batch import BatchReconstruction, PeerSettings
from streamrecon.peers.start import low_passed, map_of_true_poses
from streamrecon.reconstruct.extent import geometry_for
from streamrecon.reconstruct.half_maps import PAD
from streamrecon.reconstruct.mapping import map_box_for, resize_volume
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.settings import EngineSettings

_START_SHELLS = 8
_EXACT = 1e-8  # of the gradient's norm at zero: where the minimum counts as found
_MOST_PRODUCTS = 400


def run_real(p: Any, backend: Backend, stop: Callable[[], bool]) -> Result | None:
    """Run one method on real particles; None if told to stop."""
    batch = read_posed(Path(p["particles"]))
    group = batch.table.optics_groups[0]
    geometry = geometry_for(EngineSettings(), group.box_size, group.pixel_size_angstrom)
    if "passes" in p:
        return _peer(p, batch, geometry, backend, stop)
    return _optimiser(p, batch, geometry, backend, stop)


def read_posed(path: Path) -> ParticleBatch:
    """Read all particles of a STAR or .cs file, with their poses.

    Raises
    ------
    IngestError
        It cannot be read.
    """
    table = read_manifest(path, path.parent)
    stack = probe_stack(table.stack_names[0])
    table = fill_box_size(table, stack.nx)
    for name in table.stack_names:
        check_stack(table, path, probe_stack(name))
    return ParticleBatch(read_images(table), table, tuple(table.identities()))


def _peer(
    p: Any, batch: ParticleBatch, geometry: ImageGeometry, backend: Backend, stop: Callable[[], bool]
) -> Result | None:
    known = map_of_true_poses([batch], geometry, backend)
    settings = PeerSettings(method=p["method"], search_shells=p["shells"], tau2="map")
    method = BatchReconstruction(settings, geometry, backend)
    method.load([batch])
    method.start(low_passed(known, _START_SHELLS))
    rows = []
    for number in range(p["passes"]):
        if stop():
            return None
        found = method.iterate()
        poses = score_poses(_rotation(batch), found.rotation)
        curve = fsc_between(known, method.volume, geometry.pixel_size_angstrom)
        rows.append(
            {
                "method": p["method"],
                "pass": number + 1,
                "share_within_15": poses.share_within,
                "median_degrees": round(poses.median_degrees, 2),
                "fsc_05_to_known_angstrom": round(curve.resolution_05_angstrom, 2),
                "log_evidence": round(found.log_evidence, 4),
            }
        )
    return Result(rows, {p["method"]: method.volume})


def _rotation(batch: ParticleBatch) -> NDArray[np.float32]:
    rotation = batch.table.rotation
    if rotation is None:
        raise RuntimeError("expected particles with poses")
    return rotation


def posed_objective(batch: ParticleBatch, geometry: ImageGeometry, shells: int, backend: Backend) -> PosedImages:
    """Return the objective of particles at the poses in their table, with a prior as strong as each shell's data."""
    n, box = len(batch), geometry.box_size
    points = half_plane_points(shells)
    step = np.full(n, geometry.frequency_step, np.float32)
    grid = polar_grid(4, geometry.particle_radius / box, 4)
    observed = Preparer(backend, geometry, grid, masked=False).prepare(
        np.ascontiguousarray(batch.images, np.float32), batch.table.ctf_coefficients(), step, np.zeros(n, np.int32),
        points,
    )  # fmt: skip
    noise = NoiseModel(1, box // 2 + 1)
    noise.update(observed.group, observed.power, observed.mask_fill)
    inverse = backend.to_device(noise.inverse(observed.group))
    weighed = backend.weigh(observed.real, observed.imaginary, observed.ctf, points.shell, inverse)
    shift = np.zeros((n, 2), np.float32) if batch.table.shift_angstrom is None else batch.table.shift_angstrom
    samples = PoseSamples(
        rotation=backend.to_device(_rotation(batch)[:, None].astype(np.float32)),
        shift=backend.to_device((shift / geometry.pixel_size_angstrom)[:, None].astype(np.float32)),
        weight=backend.to_device(np.ones((n, 1), np.float32)),
        log_evidence=np.zeros(n, np.float32),
        effective_sample_size=np.ones(n, np.float32),
        best=np.zeros(n, np.int32),
        evaluations=0,
    )
    map_box = map_box_for(shells, box)
    model = MapModel(backend, PAD, shells, map_box, 1.0 + backend.zeros((map_box,) * 3))
    bare = PosedImages(model, box, points, weighed, samples)
    by_shell = model.coordinates.shell_means(bare.curvature)
    by_shell[0] = by_shell[1]  # of the mean density images say nothing
    return PosedImages(model, box, points, weighed, samples, precision=by_shell[bare.shell].astype(np.float32))


def minimum(objective: PosedImages) -> Vector:
    """Return the exact minimum of a quadratic objective, by conjugate gradients preconditioned with its diagonal."""
    x = np.zeros(len(objective.shell), np.float64)
    inverse = 1.0 / np.maximum(objective.curvature, 1e-30)
    r = -np.asarray(objective.gradient(x.astype(np.float32)), np.float64)
    d = z = inverse * r
    first = rho = dot(r, z)
    for _ in range(_MOST_PRODUCTS):
        if rho <= _EXACT**2 * first:
            break
        product = objective.product(d.astype(np.float32))
        alpha = rho / dot(d, product)
        x, r = x + alpha * d, r - alpha * product
        z = inverse * r
        rho, old = dot(r, z), rho
        d = z + rho / old * d
    return x.astype(np.float32)


def _optimiser(
    p: Any, batch: ParticleBatch, geometry: ImageGeometry, backend: Backend, stop: Callable[[], bool]
) -> Result | None:
    objective = posed_objective(batch, geometry, p["shells"], backend)
    best = minimum(objective)
    lowest, scale = objective.value(best), -objective.value(best)
    volume: Vector = np.zeros_like(best)
    rows: list[dict[str, Any]] = []

    def look(step: int) -> None:
        curve = fsc_between(_map(objective, best), _map(objective, volume), geometry.pixel_size_angstrom)
        rows.append(
            {
                "method": p["method"],
                "step": step,
                "excess": (objective.value(volume) - lowest) / scale,
                "fsc_05_to_minimum_angstrom": round(curve.resolution_05_angstrom, 2),
                "fsc_mean": float(np.mean(curve.fsc[1 : p["shells"] + 1])),
            }
        )

    look(0)
    if p["method"] == ONLINE_EM:  # its one step is a division by the diagonal
        volume = (volume - objective.gradient(volume) / np.maximum(objective.curvature, 1e-30)).astype(np.float32)
        look(1)
        return Result(rows, {p["method"]: _map(objective, volume)})
    settings = method_settings(p["method"], p["factor"])
    optimiser = make_optimiser(settings.method, settings.step_size, float("inf"))
    for step in range(1, p["steps"] + 1):
        if stop():
            return None
        volume = optimiser.step(volume, objective)
        look(step)
    return Result(rows, {p["method"]: _map(objective, volume), "minimum": _map(objective, best)})


def _map(objective: PosedImages, vector: Vector) -> NDArray[np.float32]:
    model = objective.model
    return resize_volume(model.backend.to_host(model.volume(vector)), model.map_box)

"""The CPU backend's kernels timed where they run: one after the other on chunks of real images, as in the engine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Specimen
from benchmarks.kernel_costs import Shapes
from streamrecon.compute.backend import Array
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cpu_kernels import cells as cell_kernels
from streamrecon.compute.cpu_kernels import images as image_kernels
from streamrecon.fourier.points import half_plane_points
from streamrecon.inference.importance import Band, PoseSamples
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.extent import geometry_for
from streamrecon.reconstruct.half_maps import PAD, HalfMaps
from streamrecon.reconstruct.mapping import map_box_for
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings

SNR = 0.1
_R = TypeVar("_R")
# the settled engine probes a fifth of each batch with a search of its own
PROBE_SHARE = 0.2


class _Clock:
    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def time(self, name: str, function: Callable[..., _R], *args: Any) -> _R:
        began = time.perf_counter()
        result = function(*args)
        self.seconds[name] += time.perf_counter() - began
        return result


class KernelChain:
    """n images of a specimen, the true map as the current one, and every step that a settled engine takes.

    Parameters
    ----------
    specimen : Specimen
    k_max : int
    n : int
    threads : int
    """

    def __init__(self, specimen: Specimen, k_max: int, n: int, threads: int) -> None:
        self.backend = CpuBackend(threads)
        self.settings = EngineSettings()
        self.n = n
        box = len(specimen.volume)
        self.geometry = geometry_for(self.settings, box, specimen.pixel_size_angstrom)
        self.points = half_plane_points(k_max)
        microscope = Microscope(
            specimen.volume,
            MicroscopeSettings(specimen.pixel_size_angstrom, particles_per_micrograph=n, snr=SNR, seed=1),
        )
        taken = microscope.micrograph(0, "stack", "micrograph")
        self.batch = ParticleBatch(taken.images, taken.table, tuple(taken.table.identities()))
        self.estimator = PoseEstimator(self.settings, self.geometry, self.backend)
        self.search = self.estimator._search
        self.halves = HalfMaps(self.backend, self.geometry, k_max)
        # the true map at the scale the particles have it: likelihoods are as peaked as in a settled run
        volume = specimen.volume * np.float32(microscope._signal_scale())
        radius = PAD * max(k_max, self.search.grid.n_rings) + 2
        self.cube = self.backend.cube(volume, PAD, radius)
        self.estimator.set_maps((self.cube, self.cube), k_max)
        self.search_map = self.search.slices_of(self.cube, PAD, k_max)
        self.noise = NoiseModel(1, box // 2 + 1)
        # the simulated noise has variance 1 a pixel: box^2 a Fourier coefficient
        self.noise.variance[:] = float(box**2)
        rng = np.random.default_rng(0)
        k = self.settings.samples
        self.plan = self.estimator._plan(self.points, 1.0)
        turns = self.plan.rotation_half_widths
        self.start = rng.random((n, 1 + len(turns)), np.float32)
        self.pick, self.place = rng.random((2, n, k, 4), np.float32)
        self.moves = [rng.random((n, count, 5), np.float32) for count in self.plan.samples]
        self.inserted = 0.0

    def shapes(self) -> Shapes:
        """Return the sizes for the cost formulas; call `measure` before."""
        grid, cells, k_max = self.search.grid, self.estimator.cells, self.points.k_max
        map_box = map_box_for(k_max, self.geometry.box_size)
        counts = (self.settings.samples, *self.plan.samples)
        side = 2 * (PAD * k_max + 2) + 1
        return Shapes(
            box=self.geometry.box_size,
            small_box=self.estimator.preparer._small_box,
            rings=grid.n_rings,
            half=grid.n_half,
            frequencies=len(grid.q),
            shifts=len(cells.shifts),
            directions=cells.n_pairs,
            angles=grid.n_psi // 2,
            points=len(self.points),
            samples=self.settings.samples,
            scored=sum(n * len(b.points) for n, b in zip(counts, self.plan.bands, strict=True)) / len(self.points),
            inserted=self.inserted,
            chunk=min(self.n, self.backend.chunk_images),
            cube_bytes=self.cube.nbytes,
            accumulator_bytes=16 * side * side * (side // 2 + 1),
            map_box=map_box,
            padded_box=PAD * map_box,
            update_images=self.settings.update_images,
        )

    def measure(self) -> dict[str, float]:
        """Run everything once; return the seconds that each kernel took an image, all threads busy."""
        total: defaultdict[str, float] = defaultdict(float)
        results = self.backend.run(self._chunk, self.n)
        for seconds, _, _ in results:
            for name, value in seconds.items():
                total[name] += value / self.backend.threads
        samples = PoseSamples.concatenate(self.backend, [s for _, s, _ in results])
        weighed = np.concatenate([w for _, _, w in results], axis=1)
        clock = _Clock()
        self.inserted = float((samples.weight >= self.settings.minimum_weight).sum()) / self.n
        clock.time(
            "insert_slices", self.halves.insert, self.n // 2, samples, weighed, self.points,
            self.settings.minimum_weight,
        )  # fmt: skip
        clock.time("solve + cube", self._update)
        per_image = {name: value / self.n for name, value in {**total, **clock.seconds}.items()}
        per_image["solve + cube"] *= self.n / self.settings.update_images
        return per_image

    def _update(self) -> None:
        self.halves.solve(self.points.k_max)
        reach = max(self.points.k_max, self.search.grid.n_rings)
        common = self.halves.common_reference()
        self.estimator.set_maps(self.halves.cubes((common, common), reach), self.points.k_max)
        self.estimator.set_maps((self.cube, self.cube), self.points.k_max)

    def _chunk(self, a: int, b: int) -> tuple[dict[str, float], PoseSamples, NDArray[np.float32]]:
        clock, backend, grid, cells = _Clock(), self.backend, self.search.grid, self.estimator.cells
        points, box, preparer = self.points, self.geometry.box_size, self.estimator.preparer
        coefficients, n = self.batch.table.ctf_coefficients()[a:b], b - a
        step = np.full(n, self.geometry.frequency_step, np.float32)
        transforms = clock.time("image FFT", backend.image_transforms, self.batch.images[a:b], preparer._mask)
        real, imaginary = clock.time("the rest", backend.half_plane, transforms, points)
        ctf = clock.time("CTF", backend.ctf, coefficients, points.kx, points.ky, step)
        rings = clock.time("polar transform", backend.rings, transforms, preparer._matrix, preparer._small_box)
        ring_ctf = clock.time("CTF", backend.ctf, coefficients, grid.kx, grid.ky, step)
        clock.time("the rest", backend.shell_power, transforms, box // 2 + 1)
        inverse_noise = self.noise.inverse(np.zeros(n, np.int32))

        gain = inverse_noise[:, 1 : grid.n_rings + 1] * grid.ring_weight
        shape = (n, grid.n_rings, grid.n_half)
        moved = np.empty((2, n, len(cells.shifts), *shape[1:]), np.float32)
        ctf2 = np.empty(shape[:2], np.float32)
        split = rings.reshape(n, 2, *shape[1:])
        clock.time(
            "shift_rings", image_kernels.shift_rings, split[:, 0], split[:, 1], ring_ctf.reshape(shape), gain,
            grid.kx, grid.ky, cells.shifts, box, moved[0], moved[1], ctf2,
        )  # fmt: skip
        flat = moved.reshape(2, -1, grid.n_half)
        spectra = clock.time("angular DFT", backend._angular, flat[0], flat[1], grid)
        spectra = spectra.reshape(len(grid.q), 2, n * len(cells.shifts), grid.n_rings)
        target = self.search_map
        slices, ring_power = target.coefficients, target.ring_power
        planes = clock.time("correlate", backend.correlate, spectra, slices, grid)
        power_term = ctf2 @ ring_power.T
        n_shifts = len(cells.shifts)
        best = clock.time("best_cell", backend.best_cell, planes, power_term, n_shifts)
        probed = max(1, round(PROBE_SHARE * n))
        columns = probed * n_shifts * cells.n_pairs
        clock.time(
            "cell_histogram",
            backend.cell_histogram,
            planes[:, :, :columns],
            power_term[:probed],
            n_shifts,
            best[:probed],
        )
        masses = clock.time("cell_masses", backend.cell_masses, planes, power_term, n_shifts, best, 1.0)
        first = self._draw(clock, planes, power_term, best, masses, a, b)
        weighed = clock.time("the rest", self._weigh, real, imaginary, ctf, inverse_noise)
        samples = self._refine(clock, weighed, first, a, b)
        pose = samples.best_pose(self.backend)
        clock.time(
            "the rest", backend.residual, self.cube, PAD, points, box, points.k_max + 1, (real, imaginary, ctf), *pose
        )
        return dict(clock.seconds), samples, weighed

    def _weigh(self, real: Array, imaginary: Array, ctf: Array, inverse_noise: Array) -> Array:
        return self.backend.weigh(real, imaginary, ctf, self.points.shell, inverse_noise)

    def _draw(
        self, clock: _Clock, planes: Array, power_term: Array, best: Array, masses: tuple[Array, Array], a: int, b: int
    ) -> tuple[Array, Array, Array]:
        """`CpuBackend.draw_poses` in its two parts."""
        cells, k = self.estimator.cells, self.settings.samples
        direction, psi_index, shift_index = np.empty((3, b - a, k), np.int32)
        density = np.empty((b - a, k), np.float32)
        defensive = round(self.settings.defensive_share * k)
        clock.time(
            "draw_cells", cell_kernels.draw_cells, planes, power_term, len(cells.shifts), best, 1.0, *masses,
            defensive, self.start[a:b, 0], self.pick[a:b], direction, psi_index, shift_index, density,
        )  # fmt: skip
        rotation, shift = np.empty((b - a, k, 3, 3), np.float32), np.empty((b - a, k, 2), np.float32)
        clock.time(
            "the rest", cell_kernels.poses_in_cells, direction, psi_index, shift_index, cells.children,
            self.search._psi, np.float32(2 * np.pi / cells.n_psi), cells.shifts, np.float32(cells.shift_step),
            self.place[a:b], rotation, shift,
        )  # fmt: skip
        return rotation, shift, density

    def _refine(self, clock: _Clock, weighed: Array, first: tuple[Array, Array, Array], a: int, b: int) -> PoseSamples:
        """`refine_samples`, timed call by call."""
        backend, (rotation, shift, density) = self.backend, first
        plan = self.plan

        def score(band: Band) -> Array:
            part = weighed if band.index is None else weighed.take(band.index, axis=2)
            return backend.score(self.cube, PAD, band.points, self.geometry.box_size, part, rotation, shift)

        values = clock.time("score_poses", score, plan.bands[0])
        weight, summary = clock.time("the rest", backend.normalise, values, density, 1.0)
        evaluations = values.size
        for r, (turn, slide) in enumerate(zip(plan.rotation_half_widths, plan.shift_half_widths, strict=True)):
            rotation, shift, density = clock.time(
                "propose", backend.propose, rotation, shift, weight, turn, slide, plan.shift_area,
                self.start[a:b, 1 + r], self.moves[r][a:b],
            )  # fmt: skip
            values = clock.time("score_poses", score, plan.bands[r + 1])
            weight, summary = clock.time("the rest", backend.normalise, values, density, 1.0)
            evaluations += values.size
        return PoseSamples(
            rotation, shift, weight, summary[:, 0], summary[:, 1], summary[:, 2].astype(np.int32), evaluations
        )

"""Two half maps that an optimiser improves batch by batch, in the place of running sums.

What the engine asks of `HalfMaps` is the same: images are inserted, maps are solved for, sums are emptied. Here an
insertion is a step of each half's own optimiser, on the objective of its own images at fixed pose weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.fourier.shells import first_shell_below
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry
from streamrecon.optimise.interface import Arrays, Optimiser, Scalars, Vector, fitted
from streamrecon.optimise.methods import make_optimiser
from streamrecon.optimise.objective import MapModel, PosedImages
from streamrecon.particles import HALVES
from streamrecon.reconstruct.collective import ALONE, Collective
from streamrecon.reconstruct.half_maps import PAD, HalfMaps
from streamrecon.reconstruct.mapping import PriorChoice, SolvedMap, map_box_for, signal_to_noise
from streamrecon.reconstruct.settings import EngineSettings

_SURE_FSC = 0.8  # shells of the common map that both halves start over from: those that noise did not shape


class OptimisedHalves(HalfMaps):
    """Both halves' maps as vectors, each with an optimiser of its own.

    The first map comes from running sums, as the default's does, so that every method starts from the same random map.
    From the first `forget` (0.0) on, which empties those sums, the optimisers have it: each half from its own.

    Parameters
    ----------
    backend : Backend
    geometry : ImageGeometry
    k_max : int
        Of the first map.
    make : callable
        Makes the optimiser of a half.
    """

    def __init__(self, backend: Backend, geometry: ImageGeometry, k_max: int, make: Callable[[], Optimiser]) -> None:
        super().__init__(backend, geometry, k_max)
        self._geometry = geometry
        self._optimisers = (make(), make())
        self._vectors: tuple[Vector, Vector] | None = None

    @property
    def step_size(self) -> float:
        """Return the latest step size of half a's optimiser."""
        return self._optimisers[0].step_size

    def _model(self, k_max: int) -> MapModel:
        map_box = map_box_for(k_max, self._geometry.box_size)
        return MapModel(self._backend, PAD, k_max, map_box, self._solver.mask(map_box))

    def insert(
        self,
        n_a: int,
        samples: PoseSamples,
        weighed: Array,
        points: HalfPlanePoints,
        minimum_weight: float,
        sign: float = 1.0,
    ) -> None:
        """Make a step of each half's optimiser on its own images.

        Raises
        ------
        NumericalError
            A step left the range of numbers; the maps are as they were, and the optimisers start over.
        """
        if self._vectors is None:
            super().insert(n_a, samples, weighed, points, minimum_weight, sign)
            return
        if sign != 1.0:
            raise RuntimeError("an optimiser's step cannot be taken back: only the default method visits again")
        model = self._model(points.k_max)
        vectors = self._vectors

        def one(h: int) -> Vector:
            rows = slice(0, n_a) if h == 0 else slice(n_a, None)
            vector = fitted(vectors[h], len(model.coordinates))
            part = samples.take(rows)
            if not len(part.weight):
                return vector
            closure = PosedImages(model, self._box_size, points, weighed[:, rows], part, minimum_weight=minimum_weight)
            return self._optimisers[h].step(vector, closure)

        first, second = self._backend.run_each([partial(one, 0), partial(one, 1)])
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            for optimiser in self._optimisers:
                optimiser.reset()
            raise NumericalError(
                f"engine.method {self._optimisers[0].name}: a step is not finite; set a smaller engine.step_size"
            )
        self._vectors = (first, second)

    def forget(self, keep: float) -> None:
        """0 starts over from the latest maps; the optimisers see to all other forgetting."""
        if keep != 0.0:
            return
        latest = self._latest()
        model = self._model(latest.k_max)
        if self._vectors is None:
            super().forget(0.0)
            self._vectors = (model.vector(latest.half_a), model.vector(latest.half_b))
        else:
            # both halves go on from what they surely share, and from nothing beyond: what they come to agree on
            # there is their own
            sure = model.coordinates.shell < max(first_shell_below(self.fsc, _SURE_FSC), 2)
            common = model.vector(latest.volume) * sure
            self._vectors = (common, common.copy())
        for optimiser in self._optimisers:
            optimiser.reset()

    def peek(self, k_max: int, *, published: bool = False) -> SolvedMap:
        """Return the maps as they are, filtered by their FSC, up to ``k_max``; their own frame is the published one."""
        if self._vectors is None:
            return super().peek(k_max, published=published)
        model = self._model(k_max)
        n = len(model.coordinates)
        a, b = (fitted(vector, n) for vector in self._vectors)
        fsc = self._backend.shell_correlation(model.volume(a), model.volume(b), k_max + 1)
        ssnr = signal_to_noise(fsc, k_max + 1)
        ssnr[0] = ssnr[1]  # the mean density is in no shell of the likelihood
        half = (ssnr / (1.0 + ssnr)).astype(np.float32)[model.coordinates.shell]
        # the sum of both halves has twice the signal-to-noise ratio of one
        whole = (2.0 * ssnr / (1.0 + 2.0 * ssnr)).astype(np.float32)[model.coordinates.shell]
        both = whole * (a + b) / np.float32(2.0)
        return SolvedMap(model.volume(both), model.volume(half * a), model.volume(half * b), fsc, k_max)

    def state(self) -> tuple[Arrays, Scalars]:
        """Return what a checkpoint needs: arrays on the host, and scalars."""
        arrays, scalars = super().state()
        if self._vectors is None:
            return arrays, scalars
        for h, vector, optimiser in zip(HALVES, self._vectors, self._optimisers, strict=True):
            own_arrays, own_scalars = optimiser.state()
            arrays |= {f"optimiser_{h}_{name}": array for name, array in own_arrays.items()}
            arrays[f"vector_{h}"] = vector
            scalars |= {f"optimiser_{h}_{name}": value for name, value in own_scalars.items()}
        return arrays, scalars

    def restore(self, arrays: Mapping[str, Array], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        super().restore(arrays, scalars)
        if "vector_a" not in arrays:
            return
        self._vectors = (np.array(arrays["vector_a"]), np.array(arrays["vector_b"]))
        for h, optimiser in zip(HALVES, self._optimisers, strict=True):
            prefix = f"optimiser_{h}_"
            optimiser.restore(
                {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)},
                {name.removeprefix(prefix): v for name, v in scalars.items() if name.startswith(prefix)},
            )


def make_halves(
    settings: EngineSettings,
    backend: Backend,
    geometry: ImageGeometry,
    k_max: int,
    collective: Collective = ALONE,
) -> HalfMaps:
    """Return the half maps of the method that the settings choose.

    Raises
    ------
    ValueError
        An optimiser's steps are to be shared between processes: they are not sums.
    """
    if settings.method == "online_em":
        prior = PriorChoice(settings.prior, settings.non_negative, settings.solvent_flattening)
        return HalfMaps(backend, geometry, k_max, prior, collective)
    if collective.size > 1:
        raise ValueError(f'method "{settings.method}": expected one process, found {collective.size}; use "online_em"')
    make = partial(make_optimiser, settings.method, settings.step_size, settings.step_decay_images)
    return OptimisedHalves(backend, geometry, k_max, make)

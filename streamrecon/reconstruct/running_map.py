"""The map in use: solved from the sums now and then, its band following the half-set FSC, and what poses are found on.

Also where the hand-over to refinement happens: the measured map decides it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.shells import first_shell_below
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.band import GROWTH_THRESHOLD, choose_band
from streamrecon.reconstruct.collective import ALONE, Collective, Share
from streamrecon.reconstruct.extent import join_shells
from streamrecon.reconstruct.half_maps import PAD
from streamrecon.reconstruct.mapping import SolvedMap
from streamrecon.reconstruct.optimised_halves import make_halves
from streamrecon.reconstruct.plain_maps import PlainMaps
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.progress import Progress
from streamrecon.reconstruct.relaxation import relaxed
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.symmetry import Symmetry

_GIVEN_FSC = 0.5  # of a map that was given: as much signal as noise
_HAND_OVER_FSC = 0.8  # shells of the common map that start the halves: those that noise did not shape


class RunningMap:
    """The half-set sums, the map they give, and the band it is used to.

    Parameters
    ----------
    settings : EngineSettings
    geometry : ImageGeometry
    k_limit : int
        Last shell it may ever use.
    backend : Backend
    poses : PoseEstimator
        Is given each new map.
    progress : Progress
        Decides what is due; told what was done.
    collective : Collective
        The processes whose sums make the map.
    symmetry : Symmetry
        Says what is imposed.

    Attributes
    ----------
    halves : HalfMaps
    points : HalfPlanePoints
        Of the band in use.
    """

    def __init__(
        self,
        settings: EngineSettings,
        geometry: ImageGeometry,
        k_limit: int,
        backend: Backend,
        poses: PoseEstimator,
        progress: Progress,
        symmetry: Symmetry,
        collective: Collective = ALONE,
    ) -> None:
        self._settings = settings
        self._geometry = geometry
        self._k_limit = k_limit
        self._backend = backend
        self._poses = poses
        self._progress = progress
        self.symmetry = symmetry
        self.points = half_plane_points(min(settings.start_shells, k_limit))
        self.halves = make_halves(settings, backend, geometry, self.points.k_max, collective)
        self._volumes: tuple[Array, Array] | None = None
        self._plain = PlainMaps(backend, geometry, self.halves)

    @property
    def sure_shells(self) -> int:
        """Shells up to which the halves agree well."""
        return first_shell_below(self.halves.fsc, GROWTH_THRESHOLD)

    def begin_from(self, volume: Array) -> None:
        """Take up a map that was given, (box,)*3 in the images' units, before anything was gathered."""
        fsc = np.full(self.points.k_max + 1, _GIVEN_FSC, np.float32)
        self.halves.latest = SolvedMap(volume, volume, volume, fsc, self.points.k_max)
        self._take_up((volume, volume))
        self.empty()

    def update(self) -> None:
        """Solve for the map, move its band, hand over if it is at rest, and pose what comes against the new map."""
        stages, done = self._progress.stages, self._progress.done
        done.last_update = done.image_visits
        if self._progress.collecting:
            if not self._progress.collected:
                return
            stages.split = True
        self.halves.solve(self.points.k_max)
        missing = self._choose_band()
        at_rest = stages.note_band(missing)
        self._follow_symmetry(look=at_rest or stages.split)
        if at_rest:
            self._hand_over()
            return
        volumes = (self.halves.common_reference(),) * 2
        if stages.split:
            volumes = self.halves.half_references(
                join_shells(self._geometry.box_size, self._geometry.pixel_size_angstrom)
            )
        self._take_up(volumes)

    def empty(self) -> None:
        """Forget everything that was gathered."""
        self.halves.forget(0.0)
        self._progress.sums_emptied()

    def gather_anew(self) -> None:
        """Empty the sums of a refinement, and go on as after its hand-over."""
        if self._progress.stages.name == "refining":
            self._hand_over()

    def _hand_over(self) -> None:
        """Begin refinement: halves posed against the common map's surest shells until they have maps of their own."""
        self._progress.stages.hand_over(self.points.k_max)
        volume = self.halves.low_passed(self._sure_shells_alone())
        self._take_up((volume, volume))
        self.empty()

    def _sure_shells_alone(self) -> int:
        """Return the shells of the common map that noise did not shape."""
        return max(first_shell_below(self.halves.fsc, _HAND_OVER_FSC) - 1, self._settings.start_shells)

    def relaxed(
        self, samples: PoseSamples, weighed: Array, n_a: int, rng: np.random.Generator, share: Share, *, new: bool
    ) -> PoseSamples:
        """Return posteriors with poses chosen among those that an imposed symmetry makes equivalent; see `relaxation`.

        Parameters
        ----------
        samples : PoseSamples
            Of this rank's images, the first ``n_a`` of them of half a.
        weighed : ndarray, (3, n, n_points)
        new : bool
            Whether these images are in no map yet: only such can say whether the symmetry is there.
        """
        if not self.symmetry.orientation.turned:
            return samples
        cubes = (self._poses.cubes, self._plain.cubes(self.points.k_max))
        found = relaxed(
            self._backend, cubes, PAD, self._geometry.box_size, self.symmetry.orientation, samples, weighed,
            self.points, n_a, rng, share,
        )  # fmt: skip
        if new and self._progress.stages.split:
            self.symmetry.doubts.note(*share.join(found.log_likelihood, found.gain))
        return found.samples

    def _follow_symmetry(self, *, look: bool) -> None:
        """Impose a symmetry once the map shows it; let go of it when the images contradict it, or all of the map."""
        symmetry, sure, done = self.symmetry, self.sure_shells, self._progress.done
        if self._progress.searching:
            if symmetry.orientation.turned:
                symmetry.forget("new images contradict the map: no longer imposed")
                self._impose()
            return
        latest = self.halves.latest
        if symmetry.orientation.turned:
            if self._progress.stages.split and latest is not None:
                plain = self._plain.solve(latest.k_max)
                if symmetry.judge(sure):
                    self._impose()
                    self.halves.take_up(plain)
                    # what was posed under a wrong symmetry is worth searching for anew
                    done.frame += 1
            return
        if not look or latest is None or not symmetry.due(sure):
            return
        if symmetry.look(self._backend, latest, self._geometry, sure):
            # the last map made without it; halves that are not apart yet need what noise did not shape
            self._plain.begin(latest, None if self._progress.stages.split else self._sure_shells_alone())
            self._impose()
            self.halves.solve(self.points.k_max)

    def _impose(self) -> None:
        """Have maps solved, and poses searched, under the symmetry as it now is; new maps must be taken up next."""
        self.halves.orientation = self.symmetry.orientation
        self._poses.limit_to(self.symmetry.orientation.operators)
        if not self.symmetry.orientation.turned:
            self._plain.clear()

    def _take_up(self, volumes: tuple[Array, Array]) -> None:
        """Make these the maps that the images of half a and half b are posed against."""
        # the search reads all its rings, also those the map does not reach yet: they must be there, as zeros
        reach = max(self.points.k_max, self._poses.search_rings)
        self._volumes = volumes
        self._poses.set_maps(self.halves.cubes(volumes, reach), self.points.k_max)

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Pose images against the map of the half that they do not belong to, meanwhile.

        Raises
        ------
        RuntimeError
            There is no map yet.
        """
        latest = self.halves.latest
        if latest is None or self._volumes is None:
            raise RuntimeError("the halves' maps asked for before the first was solved")
        reach = max(self.points.k_max, self._poses.search_rings)
        self._poses.set_maps(self.halves.cubes((latest.half_b, latest.half_a), reach), self.points.k_max)
        try:
            yield
        finally:
            self._take_up(self._volumes)

    def _choose_band(self) -> int:
        """Let k_max follow the half-set FSC, one shell at a time and not too often while poses still change.

        Returns how many shells it would have liked to grow.
        """
        k_max, done = self.points.k_max, self._progress.done
        since = done.image_visits - done.last_growth
        stages = self._progress.stages
        chosen, wanted = choose_band(self._settings, stages, self.halves.fsc, k_max, self._k_limit, since)
        if chosen != k_max:
            self.points = half_plane_points(chosen)
            done.last_growth = done.image_visits
        return wanted - k_max

    def look(self) -> SolvedMap:
        """Return the map of all images so far; the one in use stays as it is: looking changes nothing.

        Raises
        ------
        NumericalError
            Nothing was folded yet.
        """
        latest, done = self.halves.latest, self._progress.done
        if latest is None:
            raise NumericalError("no map yet: fold at least one batch first")
        newer = done.image_visits > done.last_update
        # until the halves part, what is in the sums is not yet a map
        if self._progress.collecting or not (newer or self.symmetry.orientation.turned):
            return self.halves.turned(latest)
        # the band may just have grown: the sums reach so far only once more has been inserted
        return self.halves.peek(self.points.k_max if newer else latest.k_max, published=True)

    def state(self) -> tuple[dict[str, Array], dict[str, int | float | str]]:
        """Return arrays on the host and scalars for a checkpoint."""
        arrays, scalars = self.halves.state()
        symmetry_arrays, symmetry_scalars = self.symmetry.state()
        arrays |= {**symmetry_arrays, **self._plain.state()}
        if self._volumes is not None:
            to_host = self._backend.to_host
            arrays |= {"reference_a": to_host(self._volumes[0]), "reference_b": to_host(self._volumes[1])}
        return arrays, {**scalars, **symmetry_scalars, "k_max": self.points.k_max}

    def restore(self, arrays: Mapping[str, Array], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave; the progress must have been restored before."""
        self.points = half_plane_points(int(scalars["k_max"]))
        self.symmetry.restore(arrays, scalars)
        self._impose()
        self.halves.restore(arrays, scalars)
        self._plain.restore(arrays)
        if "reference_a" in arrays:
            first, second = (self._backend.to_device(arrays[f"reference_{h}"]) for h in ("a", "b"))
            self._take_up((first, second if self._progress.stages.split else first))

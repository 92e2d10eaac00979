"""The engine: several random starts at first, the best of them from then on, and a fresh one when that is in doubt.

Now and then a random start of a pseudo-symmetric particle ends in a mixture of its near-equal views, sure of itself
and wrong. Its images still fit it worse: so a few starts run on the same images, and if another's images have clearly
higher evidence than the first's (each scored before it is folded, hence held out), that one goes on in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.errors import CheckpointIncompatible, NumericalError
from streamrecon.geometry.orientation import Orientation
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.challenge import Challenges
from streamrecon.reconstruct.collective import ALONE, Collective, agreed
from streamrecon.reconstruct.extent import band_limit, geometry_for
from streamrecon.reconstruct.kept import KeptLayout, KeptParticles
from streamrecon.reconstruct.mapping import resize_volume
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot, joined_results
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.symmetry import SymmetryFinder
from streamrecon.reconstruct.trajectory import Trajectory

# how alike two maps are, given both and their voxel size
Agreement: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.float32], float], float]

_EVIDENCE_WINDOW = 500.0  # images
_CHOICE_IMAGES = 1000  # between the last settling and the choice
_CLEARLY_BETTER = 1.1  # in mean log-evidence; starts that found the same differ by a few percent


class Engine:
    """Streaming reconstruction from random starts.

    Parameters
    ----------
    settings : EngineSettings
    box_size : int, pixels, even
    pixel_size_angstrom : float
    backend : Backend
    seed : int
        Same seed, same batches in the same order: the same map, bit for bit.
    keep : bool
        Hand out with each batch what `revisit` needs. The default method only: an optimiser's steps cannot be taken
        back, and its particles are not visited again.
    collective : Collective
        The processes that this reconstruction is shared by: each has an engine of its own and calls the same methods
        with the same arguments, `snapshot` and `state` included. The same map as of one, to rounding.
    find_symmetry : SymmetryFinder, optional
        Looks for the axes of ``settings.symmetry``; needed unless that is "C1".
    agreement : callable, optional
        Says how alike two maps of different frames and hands are, 1 the same: what is told of two starts.

    Raises
    ------
    NumericalError
        The box is odd or too small.
    """

    def __init__(
        self,
        settings: EngineSettings,
        box_size: int,
        pixel_size_angstrom: float,
        backend: Backend,
        seed: int = 0,
        *,
        keep: bool = False,
        collective: Collective = ALONE,
        find_symmetry: SymmetryFinder | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        if box_size % 2 or box_size < 32:
            raise NumericalError(
                f"box size {box_size} px: expected an even number of at least 32; crop or pad the stacks"
            )
        if settings.symmetry != "C1" and find_symmetry is None:
            raise ValueError(f"symmetry {settings.symmetry!r} asked for, and nothing given that finds its axes")
        self.settings = settings
        self._find_symmetry = find_symmetry
        self._agreement = agreement
        self.geometry = geometry_for(settings, box_size, pixel_size_angstrom)
        self._k_limit = band_limit(settings, box_size, pixel_size_angstrom)
        self._backend = backend
        self._seed = seed
        self._keep = keep and settings.method == "online_em"
        self._collective = collective
        self._groups: list[OpticsGroup] = []
        self._starts = {number: self._start(number) for number in range(settings.starts)}
        self._evidence = dict.fromkeys(self._starts, 0.0)
        self._weight = 0.0
        self._leader = 0
        self._next = settings.starts
        self._challenges = Challenges()

    def _start(self, number: int) -> Trajectory:
        # only the leader's poses are handed out, and so only they can be revisited
        return Trajectory(
            self.settings, self.geometry, self._k_limit, self._backend, (self._seed, number), keep=self._keep,
            collective=self._collective,
            find_symmetry=self._find_symmetry,
        )  # fmt: skip

    def begin_from(self, volume: NDArray[np.float32]) -> None:
        """Let every start begin from a map in the place of random poses; before the first `fold`.

        Parameters
        ----------
        volume : ndarray, (box, box, box) float32
            In the images' units.

        Raises
        ------
        NumericalError
            It is no map of this session's box.
        """
        box = self.geometry.box_size
        if volume.shape != (box, box, box) or not np.isfinite(volume).all():
            raise NumericalError(f"expected a finite map of {box} voxels a side, found {volume.shape}; resample it")
        for start in self._starts.values():
            start.begin_from(volume)

    @property
    def device_memory(self) -> tuple[int, int] | None:
        """Return bytes in use on its device and bytes there are, None without a device of its own."""
        return self._backend.memory_bytes()

    @property
    def layout(self) -> KeptLayout | None:
        """Return the sizes of what is kept of a particle, None if nothing is."""
        return KeptLayout(self._k_limit, self.settings.samples) if self._keep else None

    @property
    def orientation(self) -> Orientation:
        """Return how the frame of the poses that are handed out lies to that of the snapshots' maps."""
        return self._starts[self._leader].orientation

    @property
    def starts(self) -> int:
        """Random starts still running."""
        return len(self._starts)

    def fold(self, batch: ParticleBatch) -> BatchResult:
        """Fold a batch into the running reconstruction; each particle counts once.

        Poses are those of the leading start: the first, unless another replaces it. Each start has a frame of its own.

        Raises
        ------
        NumericalError
            An image or a likelihood is not finite; the reconstruction is as it was before.
        """
        half = batch.half
        # half a first: what belongs to a half is then one piece of every array
        order = np.argsort(half, kind="stable")
        n_a = int(np.count_nonzero(half == 0))
        ordered = batch.select(order)
        group = self._number_groups(ordered.table.optics_groups)[ordered.table.optics_group_index]
        results = {number: start.fold(ordered, n_a, group) for number, start in self._starts.items()}
        self._compare({number: float(result.log_evidence.mean()) for number, result in results.items()}, len(batch))
        leader = results[self._leader]
        seconds = sum(result.step_seconds for result in results.values())
        self._choose()
        self._doubt(len(batch))
        evaluations = sum(result.evaluations for result in results.values())
        return replace(leader.take(np.argsort(order)), evaluations=evaluations, step_seconds=seconds)

    def revisit(self, kept: KeptParticles, search: NDArray[np.bool_]) -> BatchResult:
        """Look at particles again; what they added to the sums is replaced.

        Parameters
        ----------
        kept : KeptParticles, n particles
            As they were handed out last.
        search : ndarray, (n,) bool
            Search everywhere and not only around the poses found earlier. Particles whose poses belong to another
            frame are searched anyway.

        Raises
        ------
        NumericalError
            A likelihood is not finite.
        """
        status = self._starts[self._leader].status
        if status.image_visits == status.particles_seen:
            # a stream that has settled goes on with one start at once
            self._choose(now=not self._challenges.running)
        else:
            # a search that visits carry on gives all of them their time, as it would have on new images
            self._choose(held_out=kept)
        leader = self._starts[self._leader]
        everywhere = search | (kept.contribution.frame != leader.frame) | (leader.stage == "searching")
        parts, rows = [], []
        for chosen in (True, False):
            picked = np.flatnonzero(everywhere == chosen)
            picked = picked[np.argsort(kept.half[picked], kind="stable")]
            if len(picked):
                part = kept.take(picked)
                parts.append(self._visit(part, int(np.count_nonzero(part.half == 0)), search=chosen))
                rows.append(picked)
        joined_parts = joined_results(parts)
        self._doubt(len(kept))
        return joined_parts.take(np.argsort(np.concatenate(rows)))

    def _visit(self, kept: KeptParticles, n_a: int, *, search: bool) -> BatchResult:
        """Visit sorted particles with every start; only the leader's old contributions are known."""
        results = {}
        for number, start in self._starts.items():
            results[number] = start.revisit(kept, n_a, search=search)
        self._compare({number: float(r.log_evidence.mean()) for number, r in results.items()}, len(kept))
        return results[self._leader]

    def _number_groups(self, groups: tuple[OpticsGroup, ...]) -> NDArray[np.int32]:
        """Number optics groups by what they are, whatever order files list them in."""
        for group in groups:
            if group not in self._groups:
                self._groups.append(group)
        return np.array([self._groups.index(group) for group in groups], np.int32)

    def _compare(self, evidence: dict[int, float], n: int) -> None:
        """Fold a batch's mean log-evidence into each start's running mean."""
        self._weight = min(self._weight, _EVIDENCE_WINDOW) + n
        for number, value in evidence.items():
            self._evidence[number] += (value - self._evidence[number]) * n / self._weight

    def _choose(self, *, now: bool = False, held_out: KeptParticles | None = None) -> None:
        """Let one start go on alone, once the first has had time to settle: the first, unless it has clearly failed.

        A start that is as good keeps the lead: its frame is that of the poses handed out so far. ``now``: do not wait
        for more images, if any start has settled. ``held_out``: compare by these particles and not by the evidence so
        far, which was of images that were in the maps.
        """
        if self.starts == 1:
            return
        leader, visits = self._starts[self._leader], self._starts[self._leader].status.image_visits
        others = [start for number, start in self._starts.items() if number != self._leader]
        # a challenger is given the time that the first starts had
        waiting = others if self._challenges.running else [leader, *others]
        settled = [start for start in waiting if start.stage != "searching"]
        if not settled:
            if self._challenges.too_old(visits, self.settings.settle_images):
                self._go_on_with(self._leader, "did not settle")
            return
        if min(visits - start.settled_at for start in settled) < _CHOICE_IMAGES and not now:
            return
        evidence = self._evidence if held_out is None else self._evidence_held_out(held_out)
        best = max(evidence, key=lambda number: evidence[number])
        ratio = evidence[best] / evidence[self._leader] if evidence[self._leader] > 0 else np.inf
        self._compare_maps(best)
        if best != self._leader and ratio > _CLEARLY_BETTER:
            self._go_on_with(
                best, f"explains the images better, by {ratio - 1:.0%} in log-evidence, and took its place"
            )
        else:
            self._go_on_with(self._leader, "explains the images no better")

    def _evidence_held_out(self, kept: KeptParticles) -> dict[int, float]:
        """Return each start's mean log-evidence of particles in the map of the half that they are not in."""
        by_half = kept.take(np.argsort(kept.half, kind="stable"))
        n_a = int(np.count_nonzero(kept.half == 0))
        return {number: start.evidence_held_out(by_half, n_a) for number, start in self._starts.items()}

    def _compare_maps(self, best: int) -> None:
        """Measure how alike the maps of the start that leads and of the best other one are."""
        others = sorted((n for n in self._starts if n != self._leader), key=lambda n: n != best)
        maps = [self._starts[number].current_map() for number in (self._leader, others[0])]
        if self._agreement is None or maps[0] is None or maps[1] is None:
            return
        size = min(len(m) for m in maps if m is not None)
        voxel = self.geometry.pixel_size_angstrom * self.geometry.box_size / size
        found = self._agreement(resize_volume(maps[0], size), resize_volume(maps[1], size), voxel)
        self._challenges.agreement = float(agreed(self._collective, np.array([found]))[0])

    def _go_on_with(self, number: int, outcome: str) -> None:
        """Let one start go on alone."""
        if number != self._leader:
            self._starts[number].take_over()
        challenged = self._challenges.running
        self._leader = number
        self._starts = {number: self._starts[number]}
        self._evidence = {number: self._evidence[number]}
        who = "the fresh random start" if challenged else "another random start"
        self._challenges.end(f"{who} {outcome}", self._starts[number].status.image_visits)

    def _doubt(self, images: int) -> None:
        """Hold a fresh start against the one that goes on, if that shows signs of having failed."""
        leader = self._starts[self._leader]
        status = leader.status
        self._challenges.note(status, images, clock_is_down=leader.clock_is_down)
        if self.starts > 1:
            return
        reason = self._challenges.doubt(status, self.settings.settle_images, leader.sure_shells)
        if reason:
            self._starts[self._next] = self._start(self._next)
            self._starts[self._next].begin_late(status.particles_seen, status.image_visits, leader)
            self._evidence[self._next] = 0.0
            self._next += 1
            self._challenges.begin(reason, status.image_visits)

    def snapshot(self) -> Snapshot:
        """Return the current maps at the images' own sampling.

        Raises
        ------
        NumericalError
            Nothing was folded yet.
        """
        return self._starts[self._leader].snapshot([group.name for group in self._groups])

    @property
    def status(self) -> EngineStatus:
        """Return where the engine stands: the leading start's status."""
        status = self._starts[self._leader].status
        return replace(
            status,
            evaluations_per_image=status.evaluations_per_image * self.starts,
            images_per_second=status.images_per_second / self.starts,
            step_seconds=status.step_seconds * self.starts,
            starts=self.starts,
            start_agreement=self._challenges.agreement,
            challenges=self._challenges.count,
            challenge_reason=self._challenges.reason,
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def state(self) -> EngineState:
        """Return a copy of the state, safe to write while the engine goes on."""
        arrays: dict[str, NDArray[np.generic]] = {}
        scalars: dict[str, int | float | str] = {
            "box_size": self.geometry.box_size,
            "pixel_size_angstrom": self.geometry.pixel_size_angstrom,
            "optics_groups": json.dumps([asdict(group) for group in self._groups]),
            "starts": json.dumps(list(self._starts)),
            "evidence": json.dumps(list(self._evidence.values())),
            "evidence_weight": self._weight,
            "next_start": self._next,
            **self._challenges.state(),
        }
        for number, start in self._starts.items():
            part = start.state()
            arrays |= {f"start{number}_{name}": np.array(array) for name, array in part.arrays.items()}
            scalars |= {f"start{number}_{name}": value for name, value in part.scalars.items()}
        return EngineState(arrays, scalars)

    def restore(self, state: EngineState) -> None:
        """Take up a state written by `state`, and go on as if nothing had happened.

        Raises
        ------
        CheckpointIncompatible
            The state belongs to another box or pixel size.
        """
        s = state.scalars
        here = (self.geometry.box_size, self.geometry.pixel_size_angstrom)
        there = (s["box_size"], s["pixel_size_angstrom"])
        if here != there:
            raise CheckpointIncompatible(
                f"the saved state is of box {there[0]} px at {there[1]} A, these particles are {here[0]} px at "
                f"{here[1]} A; start a new output_dir for them"
            )
        self._groups = [OpticsGroup(**fields) for fields in json.loads(str(s["optics_groups"]))]
        numbers: list[int] = json.loads(str(s["starts"]))
        self._starts = {number: self._start(number) for number in numbers}
        self._evidence = dict(zip(numbers, json.loads(str(s["evidence"])), strict=True))
        self._weight, self._leader = float(s["evidence_weight"]), numbers[0]
        self._next, self._challenges = int(s["next_start"]), Challenges.restored(s)
        for number, start in self._starts.items():
            prefix = f"start{number}_"
            start.restore(
                EngineState(
                    {n.removeprefix(prefix): a for n, a in state.arrays.items() if n.startswith(prefix)},
                    {n.removeprefix(prefix): v for n, v in s.items() if n.startswith(prefix)},
                )
            )

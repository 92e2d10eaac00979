"""The engine: several random starts at first, the best of them from then on.

Now and then a random start of a pseudo-symmetric particle ends in a mixture of its near-equal views, sure of itself
and wrong. Its images still fit it worse: so a few starts run on the same images, and if another's images have clearly
higher evidence than the first's (each scored before it is folded, hence held out), that one goes on in its place.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.errors import CheckpointIncompatible, NumericalError
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.collective import ALONE, Collective
from streamrecon.reconstruct.extent import band_limit, geometry_for
from streamrecon.reconstruct.kept import KeptLayout, KeptParticles
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot, joined_results
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.trajectory import Trajectory

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
        Hand out with each batch what `revisit` needs.
    collective : Collective
        The processes that this reconstruction is shared by: each has an engine of its own and calls the same methods
        with the same arguments, `snapshot` and `state` included. The same map as of one, to rounding.

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
    ) -> None:
        if box_size % 2 or box_size < 32:
            raise NumericalError(
                f"box size {box_size} px: expected an even number of at least 32; crop or pad the stacks"
            )
        self.settings = settings
        self.geometry = geometry_for(settings, box_size, pixel_size_angstrom)
        self._k_limit = band_limit(settings, box_size, pixel_size_angstrom)
        self._backend = backend
        self._seed = seed
        self._keep = keep
        self._collective = collective
        self._groups: list[OpticsGroup] = []
        self._starts = {number: self._start(number) for number in range(settings.starts)}
        self._evidence = dict.fromkeys(self._starts, 0.0)
        self._weight = 0.0
        self._leader = 0

    def _start(self, number: int) -> Trajectory:
        # only the leader's poses are handed out, and so only they can be revisited
        return Trajectory(
            self.settings, self.geometry, self._k_limit, self._backend, (self._seed, number), keep=self._keep,
            collective=self._collective,
        )  # fmt: skip

    @property
    def layout(self) -> KeptLayout | None:
        """Return the sizes of what is kept of a particle, None if nothing is."""
        return KeptLayout(self._k_limit, self.settings.samples) if self._keep else None

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
        self._choose(now=True)
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

    def _choose(self, *, now: bool = False) -> None:
        """Let one start go on alone, once the first has had time to settle: the first, unless it has clearly failed.

        A start that is as good keeps the lead: its frame is that of the poses handed out so far. ``now``: do not wait
        for more images, if any start has settled.
        """
        if self.starts == 1:
            return
        settled = [start for start in self._starts.values() if start.stage != "searching"]
        if not settled:
            return
        waited = min(s.status.image_visits - s.settled_at for s in settled)
        if waited < _CHOICE_IMAGES and not now:
            return
        best = max(self._starts, key=lambda number: self._evidence[number])
        if self._evidence[best] > _CLEARLY_BETTER * self._evidence[self._leader]:
            self._leader = best
        self._starts = {self._leader: self._starts[self._leader]}
        self._evidence = {self._leader: self._evidence[self._leader]}

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
        for number, start in self._starts.items():
            prefix = f"start{number}_"
            start.restore(
                EngineState(
                    {n.removeprefix(prefix): a for n, a in state.arrays.items() if n.startswith(prefix)},
                    {n.removeprefix(prefix): v for n, v in s.items() if n.startswith(prefix)},
                )
            )

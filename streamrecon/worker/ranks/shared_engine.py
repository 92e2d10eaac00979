"""The engine of a session on several devices, as rank 0 sees it: like an engine of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import structlog
from numpy.typing import NDArray

from streamrecon import errors
from streamrecon.assess.align import map_agreement
from streamrecon.assess.symmetry_trust import trusted_symmetry
from streamrecon.compute.backend import Backend
from streamrecon.compute.cuda.reduce import load_nccl
from streamrecon.config.model import Config
from streamrecon.errors import DeviceError, NumericalError, RankLost
from streamrecon.geometry.orientation import Orientation
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.collective import Collective
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.kept import KeptLayout, KeptParticles
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot
from streamrecon.worker.ranks.collective import RankCollective, nccl_address
from streamrecon.worker.ranks.team import Team
from streamrecon.worker.ranks.watchdog import Watchdog
from streamrecon.worker.ranks.wire import batch_to_wire, flat

_START_SECONDS = 300.0  # to import everything, compile the kernels, and compare a device with the CPU

_Result = TypeVar("_Result")

_log = structlog.get_logger(__name__)


class SharedEngine:
    """An engine on every rank, all doing the same at the same time; this one's results are used.

    Parameters
    ----------
    config : Config
        ``compute.devices`` says how many ranks there are.
    box_size, pixel_size_angstrom
        Of the session's images.
    backend : Backend
        Rank 0's own; the other ranks make one of the same kind.
    team : Team
        The other ranks, just started; they end with this engine.

    Raises
    ------
    NumericalError
        The box cannot be used.
    DeviceError
        A rank's device cannot be used.
    RankLost
        A rank is gone.
    """

    def __init__(self, config: Config, box_size: int, pixel_size_angstrom: float, backend: Backend, team: Team) -> None:
        self._team = team
        self._watchdog: Watchdog | None = None
        self._outcome = ""
        self._broken = False
        try:
            start = {
                "config": config.model_dump_json(),
                "backend": backend.name,
                "sampling": (box_size, pixel_size_angstrom),
            }
            self._team.commands.send("start", start, {})
            collective = RankCollective(self._team.link, backend)
            self._engine = engine_of_rank(config, box_size, pixel_size_angstrom, backend, collective)
            self._agree_on_nccl(config, backend, collective)
        except BaseException:
            self.close()
            raise

    def _agree_on_nccl(self, config: Config, backend: Backend, collective: RankCollective) -> None:
        """Use NCCL if every rank has it and a device of its own."""
        started = self._team.commands.wait(max(_START_SECONDS, config.compute.patience_seconds))
        for rank, done in started.items():
            if done.error_kind:
                raise _error_of(done.error_kind, f"{self._team.describe(rank)}: {done.text}")
        addresses = [nccl_address(backend), *(done.facts["nccl_address"] for done in started.values())]
        nccl = load_nccl()
        if nccl is None or "" in addresses or len(set(addresses)) < len(addresses):
            _log.info("sums over ranks", by="host memory", ranks=len(addresses))
            return
        identity = nccl.get_unique_id()
        self._watchdog = Watchdog(self._team.gone, config.compute.patience_seconds)
        self._team.commands.send("nccl", {"identity": identity}, {})
        with self._watchdog:
            collective.use_nccl(identity, self._watchdog)
        _log.info("sums over ranks", by="NCCL", ranks=len(addresses))

    @property
    def status(self) -> EngineStatus:
        """Return where the engine stands."""
        return self._engine.status

    @property
    def waited_seconds(self) -> float:
        """Return how long rank 0 has waited for the others within steps."""
        return self._team.link.waited_seconds

    @property
    def orientation(self) -> Orientation:
        """Return how the frame of the poses that are handed out lies to that of the snapshots' maps."""
        return self._engine.orientation

    @property
    def device_memory(self) -> tuple[int, int] | None:
        """Return bytes in use on rank 0's device and bytes there are, None without one."""
        return self._engine.device_memory

    @property
    def layout(self) -> KeptLayout | None:
        """Return the sizes of what is kept of a particle, None if nothing is."""
        return self._engine.layout

    def fold(self, batch: ParticleBatch) -> BatchResult:
        """Fold a batch into the running reconstruction; each particle counts once.

        Raises
        ------
        NumericalError
            An image or a likelihood is not finite; the reconstruction is as it was before.
        RankLost
            A rank is gone; only the checkpoint holds.
        """
        words, arrays = batch_to_wire(batch)
        return self._all("fold", words, arrays, lambda: self._engine.fold(batch))

    def revisit(self, kept: KeptParticles, search: NDArray[Any]) -> BatchResult:
        """Look at particles again; what they added to the sums is replaced.

        Raises
        ------
        NumericalError
            A likelihood is not finite.
        RankLost
            A rank is gone; only the checkpoint holds.
        """
        arrays = {**flat(kept, "kept."), "search": search}
        return self._all("revisit", {}, arrays, lambda: self._engine.revisit(kept, search))

    def snapshot(self) -> Snapshot:
        """Return the current maps."""
        return self._all("snapshot", {}, {}, self._engine.snapshot)

    def state(self) -> EngineState:
        """Return a copy of the state, safe to write while the engine goes on."""
        return self._all("state", {}, {}, self._engine.state)

    def restore(self, state: EngineState) -> None:
        """Take up a state written by `state`, on any number of ranks.

        Raises
        ------
        CheckpointIncompatible
            The state belongs to another box or pixel size.
        """
        words = {"scalars": dict(state.scalars)}
        self._all("restore", words, state.arrays, lambda: self._engine.restore(state))

    def close(self) -> None:
        """End the other ranks."""
        if self._watchdog is not None:
            self._watchdog.close()
        self._team.close()
        _log.info("ranks ended", rank_0_waited_seconds=round(self.waited_seconds, 1))

    def _all(
        self,
        verb: str,
        words: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        own: Callable[[], _Result],
    ) -> _Result:
        """Have all ranks do the same; the last command's end is waited for here, so that nobody waits for a rest."""
        if self._broken:
            raise RankLost("a step before this one was broken off; start again, from the checkpoint")
        self._finish_last()
        self._outcome = ""
        self._broken = True
        with _no_interrupt():
            self._team.commands.send(verb, words, arrays)
            try:
                result = own()
            except (NumericalError, errors.StateError) as error:
                self._outcome = error.kind  # all end so, and can go on
                self._broken = False
                raise
            self._broken = False
        return result

    def _finish_last(self) -> None:
        for rank, done in self._team.commands.wait().items():
            if done.error_kind != self._outcome:
                raise RankLost(
                    f"{self._team.describe(rank)} ended its step in {done.error_kind or 'order'} ({done.text}), rank 0 "
                    f"in {self._outcome or 'order'}; start again, from the checkpoint"
                )


def engine_of_rank(
    config: Config, box_size: int, pixel_size_angstrom: float, backend: Backend, collective: Collective
) -> Engine:
    """Make the engine that each rank has, also where there is one only."""
    keep = config.refinement.store_megabytes > 0
    return Engine(
        config.engine, box_size, pixel_size_angstrom, backend, config.session.seed, keep=keep, collective=collective,
        find_symmetry=trusted_symmetry, agreement=map_agreement,
    )  # fmt: skip


def _error_of(kind: str, text: str) -> errors.StreamReconError:
    """Return an error of ours of a kind; a rank's other failures are the device's."""
    for error in (NumericalError(text), DeviceError(text)):
        if error.kind == kind:
            return error
    return DeviceError(f"{text} ({kind})")


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Keep Ctrl-C back until a step is done: a step broken off would leave the ranks in different places."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if noted:
        raise KeyboardInterrupt

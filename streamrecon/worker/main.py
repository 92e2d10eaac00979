"""Putting the worker process together: checkpoint, feed, publisher, metrics, loop."""

from __future__ import annotations

import fcntl
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from streamrecon.config.model import Config
from streamrecon.errors import StateError, StateUnwritable
from streamrecon.ingest.ledger import session_in
from streamrecon.io import atomic_path
from streamrecon.monitor.control_metrics import ControlMetrics
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.monitor.server import Health, MonitorServer, registry_text
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.transport.control_server import ControlServer
from streamrecon.transport.feed_client import FeedClient
from streamrecon.transport.keys import WORKER_NAME, ClientKeys, ServerKeys, client_folder
from streamrecon.transport.publisher import Publisher
from streamrecon.worker.control import Control
from streamrecon.worker.loop import Worker
from streamrecon.worker.reconstruction import EngineFactory, Reconstruction
from streamrecon.worker.record import check_pose_tables

CHECKPOINT_FOLDER = "checkpoints"
SPOOL_NAME = "poses.rows"
LOCK_NAME = "worker.lock"
_ID_NAME = "worker.id"
# a fold takes seconds; a loop that has not come round for that long hangs
_HANGING_SECONDS = 300.0

_log = structlog.get_logger(__name__)


def run_worker(
    config: Config, make_engine: EngineFactory, stop: threading.Event, *, metrics_bind: str | None = None
) -> None:
    """Run a session until its stream is drained or ``stop`` is set.

    Parameters
    ----------
    config : Config
    make_engine : callable
        Makes the engine once box and pixel size are known.
    stop : threading.Event
    metrics_bind : str or None
        ``host:port`` to serve /metrics and /healthz on; None serves none.

    Raises
    ------
    StreamReconError
        What cannot be gone on from.
    """
    output_dir = config.session.output_dir
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, config.assess.target_angstrom)
    with ExitStack() as stack:
        stack.enter_context(exclusive(output_dir))
        folder = config.security.curve_folder
        server_keys = None if folder is None else ServerKeys.load(folder)
        feed_keys = None if folder is None else ClientKeys.load(client_folder(folder, WORKER_NAME))
        store = CheckpointStore(output_dir / CHECKPOINT_FOLDER, config.checkpoint.keep)
        loaded = store.load_latest(partial(check_pose_tables, output_dir / SPOOL_NAME))
        reconstruction = Reconstruction(config, make_engine, output_dir / SPOOL_NAME, loaded)
        stack.callback(reconstruction.close)
        publisher = stack.enter_context(
            Publisher(
                config.publish.events,
                config.publish.volumes,
                config.publish.snapshots,
                session_name=config.session.name,
                heartbeat_seconds=config.publish.heartbeat_seconds,
                curve=server_keys,
                refused=metrics.peer_refused,
            )
        )
        feed = stack.enter_context(
            FeedClient(
                config.feed.endpoint,
                _worker_id(output_dir),
                folded=reconstruction.folded,
                # beside a ledger, that one's and no other's: a session whose feed.endpoint is that of another would
                # take particles away from it
                session=reconstruction.feed_session or session_in(output_dir),
                folded_link=reconstruction.folded_link,
                credits=config.feed.credits,
                curve=feed_keys,
                root=config.watch.root,
            )
        )
        if reconstruction.engine is not None and loaded is not None:
            metrics.status(reconstruction.engine.status)
            _log.info("resumed", checkpoint=loaded.number, batches=len(reconstruction.folded))
        counts = ControlMetrics(registry)
        control = Control(config, counts, 0 if loaded is None else loaded.number)
        if config.control.endpoint:
            stack.enter_context(
                ControlServer(
                    config.control.endpoint,
                    control.submit,
                    control.look,
                    curve=server_keys,
                    peer_refused=counts.peer_refused,
                    message_refused=counts.message_refused,
                )
            )
            stack.callback(control.close)
        worker = Worker(config, feed, reconstruction, store, publisher, metrics, control)
        if metrics_bind is not None:

            def health() -> tuple[bool, Health]:
                waited = worker.seconds_since_turn
                return waited < _HANGING_SECONDS, {"seconds_since_turn": round(waited, 1)}

            stack.enter_context(MonitorServer(metrics_bind, registry_text(registry), health))
        publisher.close(worker.run(stop))


@contextmanager
def exclusive(output_dir: Path) -> Iterator[None]:
    """Hold the folder against a second worker: two would write over each other's checkpoints.

    Raises
    ------
    StateError
        Another process holds it, or it cannot be made.
    """
    path = output_dir / LOCK_NAME
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise StateError(
            f"{path}: cannot be made ({error.strerror}); choose a session.output_dir that can be written"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateError(
                f"{output_dir}: another worker is using this folder; end it, or choose another session.output_dir"
            ) from error
        yield


def _worker_id(output_dir: Path) -> str:
    """Return the name under which the ingester files what we folded: the same at every start."""
    path = output_dir / _ID_NAME
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(name + "\n", encoding="utf-8")
        except OSError as error:
            raise StateUnwritable(
                f"{path}: expected room for the worker's name, found {error.strerror}; free space, or choose another "
                "session.output_dir"
            ) from error
        return name

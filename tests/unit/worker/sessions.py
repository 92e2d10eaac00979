"""Sessions of the worker's loop on one folder and ledger, with real checkpoints and files; crashes on purpose."""

import threading
from functools import partial

from fakes import FakePublisher, SumEngine, make_batch
from prometheus_client import CollectorRegistry

from streamrecon.config.model import Config
from streamrecon.io import read_volume
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.loop import Worker
from streamrecon.worker.main import SPOOL_NAME
from streamrecon.worker.reconstruction import Reconstruction
from streamrecon.worker.record import check_pose_tables


class Crash(Exception):
    """Stands for SIGKILL: nothing is put in order afterwards."""


def make_config(folder, **tables):
    base = {"session": {"output_dir": folder}, "input": {"contrast": "protein_white"}, "assess": {"enabled": False}}
    return Config.model_validate(base | tables)


class Session:
    """One start of the worker after another on the same folder and ledger."""

    def __init__(self, folder, ledger, config=None, engine=SumEngine, control=None):
        self.folder, self.ledger, self.engine, self.control = folder, ledger, engine, control
        self.config = config or make_config(folder)
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.publisher = FakePublisher()

    def start(self, stop=None, sabotage=None):
        store = CheckpointStore(self.folder / "checkpoints")
        spool = self.folder / SPOOL_NAME
        loaded = store.load_latest(partial(check_pose_tables, spool))
        self.reconstruction = Reconstruction(self.config, self.engine, spool, loaded)
        try:
            self.feed = self.ledger.connect(
                self.reconstruction.folded, self.reconstruction.feed_session, self.reconstruction.folded_link
            )
            worker = Worker(
                self.config, self.feed, self.reconstruction, store, self.publisher, self.metrics, self.control
            )
            if sabotage is not None:
                sabotage(worker, self)
            return worker.run(stop or threading.Event())
        finally:
            self.reconstruction.close()

    def metric(self, name, **labels):
        return self.registry.get_sample_value(f"streamrecon_worker_{name}", labels)


def batches(n=6, **options):
    return {i: make_batch(i, **options) for i in range(1, n + 1)}


def final_sums(session):
    return [read_volume(session.folder / "snapshots" / f"half_{h}.mrc")[0] for h in "ab"]


def crash_after_folds(n, *, acknowledged=False):
    """Crash before fold n + 1; with ``acknowledged`` only once the checkpoint under way is durable and said to be."""

    def sabotage(worker, session):
        fold = session.reconstruction.fold
        left = [n]

        def counted(*arguments):
            if left[0] == 0:
                if acknowledged:
                    worker._durability.finish(None)
                raise Crash
            left[0] -= 1
            return fold(*arguments)

        session.reconstruction.fold = counted

    return sabotage


def stopped_by_a_visit(monkeypatch, engine):
    """Return an event that a kind of engine sets when it first visits a batch again: a person stops it then."""
    stop, visit = threading.Event(), engine.revisit

    def stopping(self, kept, search):
        stop.set()
        return visit(self, kept, search)

    monkeypatch.setattr(engine, "revisit", stopping)
    return stop

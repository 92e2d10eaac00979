"""Two sessions on one host, of which one was given the other's feed.endpoint: neither loses a particle to the other."""

import threading

import pytest

from streamrecon.config.model import Config
from streamrecon.errors import CheckpointIncompatible
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.worker.main import run_worker
from tests.integration.feed_helpers import Server, fill, states

FREE = "tcp://127.0.0.1:0"


def never(*_):
    raise AssertionError("no batch should come that needs an engine")


def test_a_worker_beside_a_ledger_takes_batches_of_no_other(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    fill(first)
    with Ledger(second / LEDGER_NAME, "second"):  # as ingest makes it, before it finds the port taken
        pass
    server = Server(first)
    try:
        config = Config.model_validate(
            {
                "session": {"output_dir": second},
                "feed": {"endpoint": server.endpoint},
                "publish": {"events": FREE, "volumes": FREE, "snapshots": FREE},
                "control": {"endpoint": ""},
            }
        )
        with pytest.raises(CheckpointIncompatible, match=r"feed\.endpoint is that of another session"):
            run_worker(config, never, threading.Event())
    finally:
        server.stop()
    assert states(first) == {"queued": 2}

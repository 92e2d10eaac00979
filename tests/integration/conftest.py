"""Fixtures of the integration tests."""

import contextlib

import pytest

from tests.integration.control_desk import Desk
from tests.integration.feed_helpers import Server
from tests.integration.ingest_helpers import Bench


@pytest.fixture
def serve(tmp_path):
    """Start a feed server over the ledger in ``tmp_path``; stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            server = Server(tmp_path, **options)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def root(tmp_path):
    """Return an empty watched folder."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


@pytest.fixture
def ledger_path(tmp_path):
    """Return where the ledger of ``bench`` is."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def bench(root, ledger_path):
    """Return a collector over the folder, and all that it needs."""
    made = Bench(root, ledger_path)
    yield made
    made.ledger.close()


@pytest.fixture
def open_desk():
    """Return the desk of a control server without keys, as on the loopback by default."""
    desk = Desk()
    yield desk
    desk.server.close()

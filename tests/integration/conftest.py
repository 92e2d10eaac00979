"""Fixtures of the integration tests."""

import contextlib

import pytest

from tests.integration.feed_helpers import Server


@pytest.fixture
def serve(tmp_path):
    """Start a feed server over the ledger in ``tmp_path``; stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            server = Server(tmp_path, **options)
            stack.callback(server.stop)
            return server

        yield start

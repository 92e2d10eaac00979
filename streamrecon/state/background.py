"""Writing checkpoints beside the work: the worker hands over a copied state and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, Generic, TypeVar

from streamrecon.reconstruct.results import EngineState
from streamrecon.state.checkpoint import CheckpointStore, SavedCheckpoint

Token = TypeVar("Token")


class AsyncCheckpointer(Generic[Token]):
    """One checkpoint at a time, written in a thread.

    Parameters
    ----------
    store : CheckpointStore
    before : callable, optional
        Called in the thread before each save; what must be durable no later than the checkpoint is made so
        here. Its time counts as the checkpoint's.
    """

    def __init__(self, store: CheckpointStore, before: Callable[[], None] | None = None) -> None:
        self._store = store
        self._before = before
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[Future[SavedCheckpoint], Token] | None = None

    @property
    def busy(self) -> bool:
        """Return True while a checkpoint is being written or waits to be polled."""
        return self._pending is not None

    def submit(self, state: EngineState, extra: Mapping[str, Any], token: Token) -> None:
        """Start to write a state that nobody changes any more; ``token`` comes back once it is durable.

        Raises
        ------
        RuntimeError
            The one before has not been polled.
        """
        if self._pending is not None:
            raise RuntimeError("a checkpoint is still under way: poll() until busy is False")
        self._pending = (self._pool.submit(self._save, state, extra), token)

    def poll(self, timeout_seconds: float | None = 0.0) -> tuple[SavedCheckpoint, Token] | None:
        """Return a finished checkpoint with its token, once; None if there is nothing to tell.

        Parameters
        ----------
        timeout_seconds : float or None
            Wait that long for it; None means until it is done.

        Raises
        ------
        StateError
            It could not be written; its token is forgotten and another may be submitted.
        """
        if self._pending is None:
            return None
        future, token = self._pending
        wait([future], timeout_seconds)
        if not future.done():
            return None
        self._pending = None
        return future.result(), token

    def close(self) -> None:
        """Wait for the thread to end."""
        self._pool.shutdown(wait=True)

    def _save(self, state: EngineState, extra: Mapping[str, Any]) -> SavedCheckpoint:
        began = time.monotonic()
        if self._before is not None:
            self._before()
        saved = self._store.save(state, extra)
        return replace(saved, seconds=time.monotonic() - began)

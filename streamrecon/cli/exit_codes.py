"""What the exit code of every verb means; scripts and the supervisor rely on it.

===== =====================================================================================
code  meaning
===== =====================================================================================
0     done, or stopped as asked
1     unexpected failure, a file that cannot be written: starting again may help, and the supervisor does
2     the configuration or the command line cannot be used as it is
3     saved state: corrupt, or made under another configuration
4     the wire: an endpoint cannot be bound or reached, another protocol version
5     the input cannot be read
6     the compute device cannot do what was asked
7     a computation left the range where it means anything
8     `status --check`: something waits for a person
130   ended by Ctrl-C, where that is not how the verb ends anyway
===== =====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import typer

from streamrecon.errors import (
    CheckpointCorrupt,
    CheckpointIncompatible,
    ConfigError,
    DeviceError,
    IngestError,
    LedgerCorrupt,
    NetworkFilesystem,
    NumericalError,
    ProtocolVersionError,
    RankLost,
    StateError,
    StreamReconError,
    TransportError,
)

OK = 0
UNEXPECTED = 1
CONFIG = 2
STATE = 3
TRANSPORT = 4
INPUT = 5
DEVICE = 6
NUMERICAL = 7
ATTENTION = 8
INTERRUPTED = 130  # what a shell reports after Ctrl-C

_CODES: tuple[tuple[type[StreamReconError], int], ...] = (
    (ConfigError, CONFIG),
    (NetworkFilesystem, CONFIG),
    (LedgerCorrupt, STATE),
    (CheckpointCorrupt, STATE),
    (CheckpointIncompatible, STATE),
    (ProtocolVersionError, TRANSPORT),
    (StateError, UNEXPECTED),
    (TransportError, TRANSPORT),
    (IngestError, INPUT),
    (RankLost, UNEXPECTED),
    (DeviceError, DEVICE),
    (NumericalError, NUMERICAL),
)
# a process that ends so would end so again: the supervisor stops instead of starting it anew
PERMANENT = frozenset({CONFIG, STATE, DEVICE})


def exit_code_of(error: StreamReconError) -> int:
    """Return the exit code that says what kind of error it was."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), UNEXPECTED)


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """End the program with a readable line and the right exit code on an error of ours, or of a file.

    Raises
    ------
    typer.Exit
        In its place.
    """
    try:
        yield
    except StreamReconError as error:
        _say(error.kind, str(error))
        raise typer.Exit(exit_code_of(error)) from error
    except OSError as error:
        if error.filename is None:  # no file's fault: whoever mends it needs the traceback
            raise
        _say("os_error", f"{error.filename}: {error.strerror}; check the path, its permissions and the free space")
        raise typer.Exit(UNEXPECTED) from error


def _say(kind: str, reason: str) -> None:
    """Log an error where a log is kept, print it elsewhere."""
    if structlog.is_configured():
        structlog.get_logger(__name__).error("failed", kind=kind, reason=reason)
    else:
        typer.secho(f"error: {reason}", fg=typer.colors.RED, err=True)

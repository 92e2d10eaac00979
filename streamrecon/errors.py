"""The project's one error tree.

    StreamReconError
    ├── ConfigError                  the configuration cannot be used as it is
    ├── IngestError                  something about the input
    │   ├── StackIncomplete          still being written (transient)
    │   ├── StackCorrupt             will never be readable as it is
    │   ├── ManifestMismatch         a STAR/.cs and its stacks do not fit together
    │   └── UnsupportedFormat        readable, but not something we know
    ├── TransportError               something about the wire
    │   ├── ProtocolVersionError
    │   ├── AuthenticationError
    │   ├── SequenceGap
    │   └── DeliveryError            a notice to people has not arrived
    ├── StateError                   something about saved state
    │   ├── StateUnwritable          the disk is full or refuses to write (transient)
    │   ├── NetworkFilesystem        the disk is another host's
    │   ├── LedgerCorrupt
    │   ├── CheckpointCorrupt
    │   └── CheckpointIncompatible
    ├── DeviceError                  the compute device cannot do what was asked
    │   └── RankLost                 a process that works on one of several devices is gone (transient)
    └── NumericalError               a computation left the range where it means anything

A message names the path, what was expected, what was found, and the remedy.
"""

from __future__ import annotations

from typing import ClassVar


class StreamReconError(Exception):
    """Base of every error the package raises on purpose.

    ``transient`` says whether trying the same thing later may succeed without anybody's help.
    """

    transient: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """Return the class name in snake_case: the label used in logs and metrics."""
        name = type(self).__name__
        return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


class ConfigError(StreamReconError):
    """The configuration cannot be used as it is."""


class IngestError(StreamReconError):
    """Something is wrong with the input."""


class StackIncomplete(IngestError):
    """A stack that is still being written: shorter than its header says, or still changing."""

    transient = True


class StackCorrupt(IngestError):
    """A stack that will never be readable as it is."""


class ManifestMismatch(IngestError):
    """A STAR or .cs file and the stacks it names do not fit together."""


class UnsupportedFormat(IngestError):
    """A file that can be read but holds something we do not know."""


class TransportError(StreamReconError):
    """Something went wrong on the wire."""


class ProtocolVersionError(TransportError):
    """The peer speaks another version of the protocol."""


class AuthenticationError(TransportError):
    """The peer could not prove who it is."""


class SequenceGap(TransportError):
    """Messages were lost between two sequence numbers."""

    transient = True


class DeliveryError(TransportError):
    """A notice to people has not arrived.

    Attributes
    ----------
    again : bool
        Whether another attempt may succeed.
    after_seconds : float
        Not before that; 0 if the other side did not say.
    """

    def __init__(self, text: str, *, again: bool = False, after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.again = again
        self.after_seconds = after_seconds


class StateError(StreamReconError):
    """Something is wrong with saved state."""


class StateUnwritable(StateError):
    """Saved state that cannot be written just now: the disk is full, or gone, or refuses."""

    transient = True


class NetworkFilesystem(StateError):
    """State is to be kept where other hosts keep it: neither locks nor SQLite's write-ahead log hold there."""


class LedgerCorrupt(StateError):
    """A ledger that SQLite cannot make sense of: cut, altered, or no database at all."""


class CheckpointCorrupt(StateError):
    """A checkpoint whose bytes are not what its manifest says."""


class CheckpointIncompatible(StateError):
    """A checkpoint written under a configuration that does not fit this one."""


class DeviceError(StreamReconError):
    """The compute device cannot do what was asked of it."""


class RankLost(DeviceError):
    """One of several processes that share the work, one a device, has ended, hangs, or is out of step."""

    transient = True


class NumericalError(StreamReconError):
    """A computation left the range where its result means anything."""

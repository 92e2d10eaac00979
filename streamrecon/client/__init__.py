"""Follow a running reconstruction from another program.

`VolumeSubscriber` is an iterator of typed messages with numpy arrays, `AsyncVolumeSubscriber` the same for
asyncio. What they share, without any socket, is in `state`.

>>> with VolumeSubscriber(
...     events="tcp://127.0.0.1:8761",
...     volumes="tcp://127.0.0.1:8762",
...     snapshots="tcp://127.0.0.1:8763",
... ) as messages:
...     for message in messages:
...         if isinstance(message, VolumeMessage):
...             print(message.header.resolution_angstrom, message.volume.shape)
"""

from streamrecon.client.aio import AsyncVolumeSubscriber
from streamrecon.client.state import Received
from streamrecon.client.sync import VolumeSubscriber
from streamrecon.transport.keys import ClientKeys
from streamrecon.transport.schema import (
    AssessmentMessage,
    EventMessage,
    FscMessage,
    HeartbeatMessage,
    Message,
    PosesMessage,
    PreviewMessage,
    SessionMessage,
    StatusMessage,
    VolumeMessage,
)

__all__ = [
    "AssessmentMessage",
    "AsyncVolumeSubscriber",
    "ClientKeys",
    "EventMessage",
    "FscMessage",
    "HeartbeatMessage",
    "Message",
    "PosesMessage",
    "PreviewMessage",
    "Received",
    "SessionMessage",
    "StatusMessage",
    "VolumeMessage",
    "VolumeSubscriber",
]

"""What is fuzzed: every reader of files and every decoder of messages, each with its corpus and its promise."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from streamrecon.errors import IngestError, TransportError
from streamrecon.io import probe_stack, read_cs, read_manifest, read_sections, read_star, write_cs, write_star
from streamrecon.io.mrc import read_volume
from streamrecon.io.mrc_write import write_stack, write_volume
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable
from streamrecon.transport import control_schema, feed_schema, schema
from streamrecon.transport.table_wire import table_from_wire, table_to_wire

# between the frames of a message, in an input
SEPARATOR = b"\n<frame>\n"
# a reader may be asked for sections of so many pixels: more is what a stack of that size costs
_MOST_PIXELS = 1 << 20


def table(n=4):
    """Return a table with every column."""
    rng = np.random.default_rng(1)
    return ParticleTable(
        optics_groups=(OpticsGroup("one", 300.0, 2.7, 0.1, 1.5, 8), OpticsGroup("two", 200.0, 2.0, 0.07, 1.5, 8)),
        stack_names=("a/s1.mrcs", "b/s2.mrcs"),
        optics_group_index=np.arange(n, dtype=np.int32) % 2,
        stack_number=np.arange(n, dtype=np.int32) // 2 % 2,
        stack_index=np.arange(n, dtype=np.int32),
        defocus_u_angstrom=np.linspace(1e4, 2e4, n, dtype=np.float32),
        defocus_v_angstrom=np.linspace(1e4, 1.9e4, n, dtype=np.float32),
        astigmatism_angle_degrees=np.full(n, 30, np.float32),
        phase_shift_degrees=np.zeros(n, np.float32),
        rotation=np.broadcast_to(np.eye(3, dtype=np.float32), (n, 3, 3)).copy(),
        shift_angstrom=rng.normal(0, 3, (n, 2)).astype(np.float32),
        micrograph_names=tuple(f"mic{i}.mrc" for i in range(n)),
    )


class FileTarget:
    """Writes each input to a file and reads it.

    Parameters
    ----------
    suffix : str
    make : callable
        Given a folder, yields the files of the corpus.
    read : callable
        Given the file.
    """

    refuses = IngestError

    def __init__(self, suffix, make, read):
        # in memory where that can be: it is the reader that is tried, not the disk
        shared = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None)
        self.path = Path(self._folder.name) / f"input{suffix}"
        self._read = read
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            self.corpus = [path.read_bytes() for path in sorted(Path(folder).iterdir())]

    def __call__(self, data):
        """Read one input."""
        self.path.write_bytes(data)
        self._read(self.path)

    def close(self):
        """Remove the folder."""
        self._folder.cleanup()


class MessageTarget:
    """Decodes each input, cut into frames."""

    refuses = TransportError

    def __init__(self, corpus, decode):
        self.corpus = [SEPARATOR.join(bytes(f) for f in frames) for frames in corpus]
        self._decode = decode

    def __call__(self, data):
        """Decode one input."""
        self._decode(data.split(SEPARATOR))

    def close(self):
        """Do nothing."""


def _stacks(folder):
    images = np.random.default_rng(1).standard_normal((3, 8, 8)).astype(np.float32)
    write_stack(folder / "float.mrcs", images, 1.5)
    write_volume(folder / "map.mrc", np.random.default_rng(2).standard_normal((8, 8, 8)).astype(np.float32), 1.5)
    raw = bytearray((folder / "float.mrcs").read_bytes())
    for mode, pixel_bytes in ((0, 1), (1, 2), (6, 2), (12, 2)):
        raw[12:16] = mode.to_bytes(4, "little")
        (folder / f"mode{mode}.mrcs").write_bytes(raw[: 1024 + 3 * 64 * pixel_bytes])
    header = np.frombuffer(bytes(raw[:1024]), "<i4").byteswap().tobytes()
    (folder / "swapped.mrcs").write_bytes(header + bytes(3 * 64 * 2))


def _read_stack(path):
    with suppress(IngestError):
        read_volume(path)
    probe = probe_stack(path)
    if probe.nx * probe.ny <= _MOST_PIXELS:
        wanted = sorted({0, min(probe.nz - 1, 1), probe.nz - 1})
        images = read_sections(path, wanted)
        assert images.shape == (len(wanted), probe.ny, probe.nx)


def _stars(folder):
    whole = table()
    write_star(folder / "full.star", whole, rotation=whole.rotation, shift_angstrom=whole.shift_angstrom)
    write_star(folder / "plain.star", whole.select(slice(0, 2)), rotation=None, shift_angstrom=None)
    (folder / "old.star").write_text(
        "data_\n\nloop_\n_rlnImageName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n_rlnVoltage #4\n"
        "_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n_rlnDetectorPixelSize #7\n_rlnMagnification #8\n"
        + "".join(f"{i:06d}@s.mrcs 10000 9000 300 2.7 0.1 5 40000\n" for i in (1, 2, 3))
    )
    (folder / "quoted.star").write_text(
        "data_images\nloop_\n_rlnImageName\n_rlnImagePixelSize\n'000001@with space.mrcs' 1.5\n\"000002@ä.mrcs\" 1.5\n",
        encoding="utf-8",
    )


def _datasets(folder):
    whole = table()
    write_cs(folder / "full.cs", whole, rotation=whole.rotation, shift_angstrom=whole.shift_angstrom)
    write_cs(folder / "plain.cs", replace(whole, micrograph_names=None).select(slice(0, 2)))


def _check_table(read):
    def checked(path):
        found = read(path)
        n = len(found)
        assert len(found.identities()) == n
        assert found.ctf_coefficients().shape == (n, 5)
        assert found.rotation is None or found.rotation.shape == (n, 3, 3)
        assert found.shift_angstrom is None or found.shift_angstrom.shape == (n, 2)
        assert found.micrograph_names is None or len(found.micrograph_names) == n
        assert n == 0 or found.stack_index.min() >= 0

    return checked


def _inside(path):
    """Whatever a manifest says, it names nothing outside the watched folder."""
    root = path.parent
    for name in read_manifest(path, root).stack_names:
        assert os.path.commonpath([root, os.path.normpath(name)]) == str(root), name


def _worker_messages():
    s = feed_schema
    hello = s.Hello(
        version=s.PROTOCOL_VERSION,
        worker_id="w",
        hostname="h",
        credits=4,
        session="x",
        folded=[(1, 4), (7, 9)],
        held=[5, 6],
        tip=(9, "00ff"),
    )
    return [s.encode(m) for m in (hello, s.Credit(2), s.Ack([1, 2, 3]), s.Nack(4, "k", "r"), s.Heartbeat(), s.Bye())]


def _ingest_messages():
    s = feed_schema
    wire = table_to_wire(table())
    welcome = s.Welcome(version=s.PROTOCOL_VERSION, session="x", session_name="n", lease_seconds=5.0, box_size=8)

    def batch(by_reference):
        return s.Batch(
            batch_id=3, session="x", table=wire, identities=table().identities(), by_reference=by_reference, box_size=8,
            stack_bytes=[1, 2], stack_mtimes_ns=[3, 2**62],
        )  # fmt: skip

    pixels = np.zeros((4, 8, 8), np.float32)
    messages = [(welcome, None), (batch(True), None), (batch(False), pixels), (s.Pause(), None), (s.Drained(), None)]
    return [s.encode(m, p) for m, p in messages] + [s.encode(s.ErrorReply("lease_lost", "why"))]


def _decode_from_ingest(frames):
    message, pixels = feed_schema.decode_ingest_message(frames)
    if isinstance(message, feed_schema.Batch):
        found = table_from_wire(message.table)
        assert len(found) == len(message.identities)
        assert pixels is None or pixels.shape == (len(found), message.box_size, message.box_size)


def _published():
    common = {"session_id": "s", "sequence": 3, "timestamp": 1.5}
    progress = common | {
        "stage": "searching", "particles_seen": 5, "image_visits": 5, "resolution_angstrom": None, "fsc_kind": "common",
    }  # fmt: skip
    volume = np.zeros((4, 4, 4), np.float32)
    header = schema.VolumeHeader(
        **progress, shape=(4, 4, 4), voxel_size_angstrom=1.5, checksum=schema.checksum_of(schema.raw_frame(volume))
    )
    status = schema.StatusHeader(
        **progress, step=1, k_max=8, temperature=1.0, effective_sample_size=2.0, coarse_entropy=None, step_seconds=0.1,
        images_per_second=10.0, evaluations_per_image=100.0, log_evidence=-5.0,
    )  # fmt: skip
    messages = (
        schema.VolumeMessage(schema.VOLUME_FULL, header, volume),
        schema.StatusMessage(schema.STATUS, status),
        schema.EventMessage(schema.EVENT, schema.EventHeader(**common, kind="k", text="t", fields={"a": 1})),
        schema.HeartbeatMessage(schema.HEARTBEAT, schema.HeartbeatHeader(**common, last_sequence={"status/": 4})),
        schema.SessionMessage(
            schema.SESSION, schema.SessionHeader(**common, state="start", name="n", software_version="1")
        ),
    )
    return [schema.serialize(m) for m in messages]


def _decode_published(frames):
    with suppress(TransportError):
        schema.decode_snapshot_request(frames)
    message = schema.deserialize(frames)
    if isinstance(message, schema.VolumeMessage):
        assert message.volume.shape == message.header.shape


def _requests():
    text = json.dumps({"protocol_version": 1, "topics": ["volume/", "fsc/"]}).encode()
    return [schema.encode_snapshot_request(["volume/"]), [schema.SNAPSHOT_REQUEST, text]]


def _control_messages():
    s, token = control_schema, "0123456789abcdef" * 2
    version = s.PROTOCOL_VERSION
    messages = (
        s.Knock(version),
        s.Command(version=version, ticket=token, request=token, verb="set", key="a.b", value=1.5),
        s.Ticket(version, token, 5.0),
        s.Answer(version=version, request=token, outcome="done", text="t", fields={"a": 1}),
        s.Refusal(version, "ticket", "t"),
    )
    return [s.encode(m) for m in messages]


def _decode_control(frames):
    with suppress(TransportError):
        control_schema.decode_reply(frames)
    control_schema.decode_request(frames)


TARGETS = {
    "mrc": lambda: FileTarget(".mrcs", _stacks, _read_stack),
    "star": lambda: FileTarget(".star", _stars, _check_table(read_star)),
    "cs": lambda: FileTarget(".cs", _datasets, _check_table(read_cs)),
    "manifest": lambda: FileTarget(".star", _stars, _inside),
    "feed, from workers": lambda: MessageTarget(_worker_messages(), feed_schema.decode_worker_message),
    "feed, from ingest": lambda: MessageTarget(_ingest_messages(), _decode_from_ingest),
    "control": lambda: MessageTarget(_control_messages(), _decode_control),
    "publish": lambda: MessageTarget(_published() + _requests(), _decode_published),
}

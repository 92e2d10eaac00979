"""A stream recorded, served again, and recorded once more: the same messages, but for session and number."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from typer.testing import CliRunner

from streamrecon.cli.main import app
from streamrecon.client import PosesMessage, SessionMessage, VolumeMessage, VolumeSubscriber
from streamrecon.compare.session import free_ports
from streamrecon.transport import schema
from streamrecon.transport.publisher import Publisher
from streamrecon.transport.recording import Record, RecordingWriter, read_recording
from streamrecon.transport.replayer import Endpoints, StreamReplayer
from tests.integration.publishing import FREE_PORT, PUBLISHED, make_result, make_snapshot, make_status

DEADLINE = 120.0


def ends(ports):
    return ["--events", ports.events, "--volumes", ports.volumes, "--snapshots", ports.snapshots]


def n_recorded(path):
    """Return how many messages are in a recording by now: none before its first line is."""
    return len(list(read_recording(path))) if path.exists() and path.stat().st_size else 0


def recorded(path):
    return [schema.deserialize(r.frames) for r in read_recording(path)]


def without_numbers(message):
    header = {k: getattr(message.header, k) for k in message.header.__struct_fields__}
    del header["session_id"], header["sequence"]
    if message.topic == schema.SESSION:
        del header["timestamp"]  # the replay starts and ends when it does
    return message.topic, header


def publish_a_session(publisher):
    publisher.publish_poses(1, make_result(5), np.array([0, 1, 0, 1, 1], np.int8), make_status(5))
    publisher.publish_status(make_status(5))
    publisher.publish_snapshot(make_snapshot(2.0, box=10))
    publisher.publish_event("note", "one", detail=1)


@contextmanager
def started(*arguments):
    """A verb of ours as a program; it is dead when we leave."""
    command = [sys.executable, "-m", "streamrecon", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A recording made by the verb, of a session that a publisher told and ended."""
    path = tmp_path_factory.mktemp("recording") / "session.rec"
    # heartbeats are seldom: a recorder that stands still has its queue for volumes full of them when the session ends
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, session_name="grid 7", heartbeat_seconds=2.0) as publisher:
        publish_a_session(publisher)
        with started("record", str(path), *ends(publisher)) as process:
            deadline = time.monotonic() + DEADLINE
            while n_recorded(path) < 9:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            publisher.publish_snapshot(make_snapshot(3.0, box=10))
            publisher.close("drained")
            _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert "messages recorded" in said
    return path


def test_everything_is_in_the_recording(recording):
    messages = recorded(recording)
    assert {m.topic for m in messages} == PUBLISHED
    assert isinstance(messages[-1], SessionMessage)
    assert [m.volume[0, 0, 0] for m in messages if m.topic == "volume/full/"] == [2.0, 3.0]
    arrivals = [r.arrived for r in read_recording(recording)]
    assert arrivals == sorted(arrivals)


def test_replayed_and_received_again_it_is_the_same(recording, tmp_path):
    """Two recordings, one of the daemon and one of the replay: equal but for session and numbers."""
    ports = free_ports()
    again = tmp_path / "again.rec"
    with started("record", str(again), *ends(ports), "--timeout", "60") as recorder:
        sent = []

        def pace(_):  # goes on once what was sent has been recorded: nothing depends on how fast the machine is
            deadline = time.monotonic() + DEADLINE
            while n_recorded(again) < len(sent):
                assert time.monotonic() < deadline
                time.sleep(0.02)

        records = list(read_recording(recording))
        spaced = [Record(1000.0 * i, r.frames) for i, r in enumerate(records)]
        places = Endpoints(ports.events, ports.volumes, ports.snapshots)
        replayer = StreamReplayer(places, sleep=pace, on_message=sent.append)
        assert replayer.run(spaced) == len(records)
        recorder.communicate(timeout=DEADLINE)
    before, after = recorded(recording), recorded(again)
    by_topic = lambda messages: {t: [without_numbers(m) for m in messages if m.topic == t] for t in schema.TOPICS}  # noqa: E731
    assert by_topic(after) == by_topic(before)
    arrays = lambda messages: [m.volume.tobytes() for m in messages if isinstance(m, VolumeMessage)]  # noqa: E731
    assert sorted(arrays(after)) == sorted(arrays(before))
    assert {m.header.session_id for m in after}.isdisjoint({m.header.session_id for m in before})
    for topic in schema.TOPICS:
        numbers = [m.header.sequence for m in after if m.topic == topic]
        assert numbers == sorted(set(numbers))


def test_pauses_are_divided_and_cut():
    session = schema.serialize(
        schema.SessionMessage(
            "session/",
            schema.SessionHeader(
                session_id="s", sequence=1, timestamp=0.0, state="start", name="n", software_version="0"
            ),
        )
    )
    frames = tuple(bytes(f) for f in session)
    records = [Record(t, frames) for t in (100.0, 102.0, 101.0, 201.0)]
    now = [0.0]
    slept = []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds

    places = Endpoints(FREE_PORT, FREE_PORT, FREE_PORT)
    StreamReplayer(places, speed=4.0, max_gap_seconds=20.0, sleep=sleep, clock=lambda: now[0]).run(records)
    assert slept == [0.5, 5.0]


def test_a_restart_in_the_recording_is_a_restart_of_the_replay(tmp_path):
    path = tmp_path / "two.rec"
    with RecordingWriter(path, 1 << 20) as writer:
        for session in ("one", "two"):
            for at, (kind, header) in enumerate(
                (
                    ("session/", '"type":"session","state":"start","name":"n","software_version":"0","reason":""'),
                    ("event/", f'"type":"event","kind":"note","text":"of {session}","fields":{{}}'),
                    ("event/", f'"type":"event","kind":"note","text":"of {session}","fields":{{}}'),
                )
            ):
                text = f'{{"protocol_version":1,"session_id":"{session}","sequence":{at + 1},"timestamp":0,{header}}}'
                writer.append(Record(10.0 if session == "one" else 20.0 + at, (kind.encode(), text.encode())))
    ports = free_ports()
    # on a busy machine a session may pass before anybody has dialled: so they are repeated until both were seen
    with started("replay", "stream", str(path), *ends(ports), "--repeat", "--max-gap", "1") as process:
        seen = {}
        with VolumeSubscriber(ports.events, None, ports.snapshots, topics=["event/"], reconnect=True) as messages:
            deadline = time.monotonic() + DEADLINE
            while set(seen.values()) != {"of one", "of two"}:
                message = next(messages)
                seen[message.header.session_id] = message.header.text
                assert time.monotonic() < deadline
        assert len(seen) >= 2
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 130


def test_the_size_is_bounded_and_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "small.rec"
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, heartbeat_seconds=0.1) as publisher:
        publish_a_session(publisher)
        places = ["--events", publisher.events, "--volumes", publisher.volumes, "--snapshots", publisher.snapshots]
        outcome = CliRunner().invoke(app, ["record", str(path), *places, "--max-size", "5e-6"])
        assert outcome.exit_code == 0, outcome.output
        assert "has reached" in outcome.output
        assert 0 < path.stat().st_size <= 5e-6 * 2**30
        foreign = tmp_path / "foreign.mrc"
        foreign.write_bytes(b"precious")
        outcome = CliRunner().invoke(app, ["record", str(foreign), *places])
        assert outcome.exit_code == 5
        assert foreign.read_bytes() == b"precious"
    outcome = CliRunner().invoke(app, ["replay", "stream", str(foreign), *ends(free_ports())])
    assert outcome.exit_code == 5


def test_poses_come_back_with_their_columns(recording):
    poses = next(m for m in recorded(recording) if isinstance(m, PosesMessage))
    expected = make_result(5)
    np.testing.assert_array_equal(poses.rotation, expected.rotation)
    np.testing.assert_array_equal(poses.column("half"), [0, 1, 0, 1, 1])


def test_ctrl_c_leaves_a_recording_that_can_be_read(tmp_path):
    path = tmp_path / "cut.rec"
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, heartbeat_seconds=0.1) as publisher:
        publish_a_session(publisher)
        with started("record", str(path), *ends(publisher)) as process:
            deadline = time.monotonic() + DEADLINE
            while n_recorded(path) < 9:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert len(recorded(path)) >= 9

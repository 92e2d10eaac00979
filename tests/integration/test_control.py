"""The control socket over real sockets: who is heard, once; and the verb that speaks to it."""

import errno
import json

import pytest
import structlog
import zmq
from typer.testing import CliRunner

from streamrecon.cli.main import app
from streamrecon.errors import AuthenticationError, TransportError
from streamrecon.transport import control_server
from streamrecon.transport.control_client import ControlClient
from streamrecon.transport.control_schema import (
    MAX_MESSAGE_BYTES,
    Answer,
    Refusal,
)
from streamrecon.transport.control_server import ControlServer
from streamrecon.transport.keys import ClientKeys, ServerKeys, client_folder, make_client, make_server
from tests.integration.control_desk import Desk, wait_for
from tests.integration.control_wire import Wire, command

WIDE = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}


@pytest.fixture
def keys(tmp_path):
    make_server(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def desk(keys):
    made = Desk(ServerKeys.load(keys))
    yield made
    made.server.close()


def client_keys(keys, name):
    return ClientKeys.load(client_folder(keys, name))


class TestWhoIsHeard:
    def test_the_operator_is_obeyed_under_its_name(self, desk, keys):
        with ControlClient(desk.endpoint, curve=client_keys(keys, "operator")) as control:
            answer = control.ask("pause")
            assert (answer.outcome, answer.text) == ("done", "pause it is")
            assert control.ask("set", "log.level", "debug").fields == {"value": "debug"}
        assert desk.obeyed == [("pause", "operator"), ("set", "operator")]
        assert desk.peers == desk.messages == []

    def test_status_needs_nobody_to_obey(self, desk, keys):
        desk.hold = True
        with ControlClient(desk.endpoint, curve=client_keys(keys, "operator")) as control:
            assert control.ask("status", timeout_seconds=60).fields["particles_seen"] == 7
        assert desk.obeyed == []

    @pytest.mark.parametrize("who", ["stranger", "local", "worker"])
    def test_an_unknown_key_and_one_of_another_role_are_not(self, desk, keys, who):
        if who == "stranger":
            public, secret = zmq.curve_keypair()
            curve = ClientKeys(public, secret, client_keys(keys, "operator").server)
        else:
            curve = client_keys(keys, who)
        with structlog.testing.capture_logs() as logged:
            with (
                ControlClient(desk.endpoint, curve=curve) as control,
                pytest.raises(AuthenticationError, match=r"not authorized.*curve_dir/authorized/control "),
            ):
                control.ask("stop", timeout_seconds=90)
            wait_for(lambda: "unknown_key" in desk.peers)
        assert desk.obeyed == []
        refused = [entry for entry in logged if entry["event"] == "peer_refused"]
        assert refused[0]["key"] == curve.public.decode()
        assert refused[0]["role"] == "control"

    def test_a_key_that_was_taken_away_commands_nothing_on_the_connection_that_stands(self, desk, keys):
        with ControlClient(desk.endpoint, curve=client_keys(keys, "operator")) as control:
            control.ask("pause")
            (keys / "authorized" / "control" / "operator.key").unlink()
            for verb in ("resume", "status"):
                with pytest.raises(TransportError, match=r"revoked.*authorized/control"):
                    control.ask(verb, timeout_seconds=60)
        assert desk.obeyed == [("pause", "operator")]
        assert desk.messages == ["revoked", "revoked"]

    def test_keys_that_cannot_be_looked_up_command_nothing_and_end_nothing(self, desk, keys, monkeypatch):
        def cannot(*_):
            raise OSError(errno.EMFILE, "Too many open files")

        with ControlClient(desk.endpoint, curve=client_keys(keys, "operator")) as control:
            control.ask("pause")
            with monkeypatch.context() as patched:
                patched.setattr(ServerKeys, "name_of", cannot)
                with pytest.raises(TransportError, match="revoked"):
                    control.ask("resume", timeout_seconds=60)
            control.ask("resume", timeout_seconds=60)
        assert desk.obeyed == [("pause", "operator"), ("resume", "operator")]

    def test_a_plaintext_client_is_not(self, desk):
        with (
            ControlClient(desk.endpoint) as control,
            pytest.raises(AuthenticationError, match="only one of the two ends uses CURVE"),
        ):
            control.ask("stop", timeout_seconds=90)
        # which end sees it first, and hangs up on the other, is chance
        wait_for(lambda: {"plaintext", "disconnected"} & set(desk.peers))
        assert desk.obeyed == []

    def test_the_operator_does_not_subscribe_or_work(self, keys):
        server = ServerKeys.load(keys)
        operator = client_keys(keys, "operator").public
        assert [server.authorizes(role, operator) for role in ("control", "subscriber", "worker")] == [
            True,
            False,
            False,
        ]

    def test_a_key_of_an_older_folder_can_be_added_while_it_runs(self, desk, keys):
        for path in (keys / "authorized" / "control").iterdir():
            path.unlink()
        (keys / "authorized" / "control").rmdir()
        make_client(keys, "bob", "control")
        with ControlClient(desk.endpoint, curve=client_keys(keys, "bob")) as control:
            control.ask("pause")
        assert desk.obeyed == [("pause", "bob")]


class TestReplay:
    """A command's frames, captured and sent again: refused, counted, logged; and not obeyed."""

    def say_under(self, name, frames, endpoint, curve):
        """Say something under a name that another connection had; return the reply, and on how many it was said.

        Nobody is let in under a name before the server has seen that who had it is gone, nor later on that connection.
        """
        for said in range(1, 8):
            with Wire(endpoint, curve, name) as wire:
                wire.say(frames)
                if not wire.silent(1000 * 2**said):
                    return wire.hear(), said
        raise AssertionError("no reply came")

    @pytest.mark.parametrize("curve", [False, True], ids=["plaintext", "curve"])
    @pytest.mark.parametrize("way", ["same connection", "another connection", "another under the same name"])
    def test_captured_frames(self, keys, way, curve):
        desk = Desk(ServerKeys.load(keys) if curve else None)
        mine = client_keys(keys, "operator") if curve else None
        name = b"operator's" if way == "another under the same name" else None
        try:
            with structlog.testing.capture_logs() as logged:
                with Wire(desk.endpoint, mine, name) as wire:
                    captured = command(wire.ticket(), "stop")
                    wire.say(captured)
                    assert isinstance(wire.hear(), Answer)
                    if way == "same connection":
                        wire.say(captured)
                        reply = wire.hear()
                said = 1
                if way == "another connection":
                    with Wire(desk.endpoint, mine) as other:
                        other.say(captured)
                        reply = other.hear()
                elif way != "same connection":
                    reply, said = self.say_under(name, captured, desk.endpoint, mine)
            assert isinstance(reply, Refusal)
            assert reply.kind == "replayed"
            assert 1 <= len(desk.messages) <= said
            assert set(desk.messages) == {"replayed"}
            assert [e["reason"] for e in logged if e["event"] == "control_refused"] == ["replayed"]
            assert [verb for verb, _ in desk.obeyed] == ["stop"]
        finally:
            desk.server.close()

    def test_a_ticket_of_an_earlier_run_is_worth_nothing(self, open_desk):
        with Wire(open_desk.endpoint) as wire:
            captured = command(wire.ticket(), "stop")
        later = Desk()
        try:
            with Wire(later.endpoint) as wire:
                wire.say(captured)
                assert wire.hear().kind == "replayed"
            assert later.obeyed == []
        finally:
            later.server.close()

    def test_an_unspent_ticket_serves_only_its_connection(self, open_desk):
        with Wire(open_desk.endpoint) as wire, Wire(open_desk.endpoint) as thief:
            captured = command(wire.ticket(), "drain")
            thief.say(captured)
            assert thief.hear().kind == "replayed"
            assert open_desk.obeyed == []
            wire.say(captured)
            assert isinstance(wire.hear(), Answer)


class TestWhatIsSent:
    def test_garbage_and_other_versions_are_counted_and_the_next_is_heard(self, open_desk):
        with Wire(open_desk.endpoint) as wire:
            for frames in ([b"\xff"], [b"{}"], [b"a", b"b"], [b""]):
                wire.say(frames)
                assert wire.hear().kind == "garbage"
            wire.say([b'{"type": "knock", "version": 99}'])
            assert wire.hear().kind == "protocol_version"
            wire.say(command(wire.ticket()))
            assert isinstance(wire.hear(), Answer)
        assert open_desk.messages == ["garbage"] * 4 + ["protocol_version"]

    def test_a_message_that_is_too_long_ends_its_connection_only(self, open_desk):
        with Wire(open_desk.endpoint) as long, Wire(open_desk.endpoint) as wire:
            long.say([b" " * (MAX_MESSAGE_BYTES + 1)])
            assert long.silent()
            wire.say(command(wire.ticket()))
            assert isinstance(wire.hear(), Answer)

    def test_orders_that_nobody_comes_to_are_bounded(self, open_desk, monkeypatch):
        monkeypatch.setattr(control_server, "MOST_ORDERS", 3)
        open_desk.hold = True
        with Wire(open_desk.endpoint) as wire:
            for _ in range(3):
                wire.say(command(wire.ticket()))
            wait_for(lambda: open_desk.orders.qsize() == 3)
            wire.say(command(wire.ticket()))
            assert wire.hear().kind == "busy"
            open_desk.orders.get().reply("done", "", {})
            assert isinstance(wire.hear(), Answer)
            wire.say(command(wire.ticket()))
            wait_for(lambda: open_desk.orders.qsize() == 3)
        assert open_desk.messages == ["busy"]

    def test_an_answer_given_while_it_closes_is_sent(self):
        desk = Desk()
        desk.hold = True
        with Wire(desk.endpoint) as wire:
            wire.say(command(wire.ticket()))
            desk.orders.get(timeout=60).reply("accepted", "going", {})
            desk.server.close()
            assert wire.hear().text == "going"

    def test_who_asked_and_left_is_no_harm(self, open_desk):
        open_desk.hold = True
        with Wire(open_desk.endpoint) as wire:
            wire.say(command(wire.ticket()))
            order = open_desk.orders.get(timeout=60)
        order.reply("done", "to nobody", {})
        with ControlClient(open_desk.endpoint) as control:
            assert control.ask("status").outcome == "done"


class TestVerb:
    def ctl(self, desk, *arguments):
        return CliRunner().invoke(app, ["ctl", *arguments, "--endpoint", desk.endpoint, "--timeout", "90"], env=WIDE)

    @pytest.mark.parametrize(("outcome", "code"), [("done", 0), ("accepted", 0), ("refused", 2), ("failed", 1)])
    def test_the_exit_code_says_what_came_of_it(self, open_desk, outcome, code):
        open_desk.outcome = outcome
        ended = self.ctl(open_desk, "pause")
        assert ended.exit_code == code, ended.output
        assert ended.output.strip() == ("" if code == 0 else f"{outcome}: ") + "pause it is"

    @pytest.mark.parametrize(
        ("text", "value"),
        [("300", 300), ("0.5", 0.5), ("true", True), ("debug", "debug"), ('"debug"', "debug"), ("[1]", "[1]")],
    )
    def test_values_are_read_as_the_file_is(self, open_desk, text, value):
        ended = self.ctl(open_desk, "set", "some.key", text, "--json")
        found = json.loads(ended.output)
        assert found == {"format": 1, "outcome": "done", "text": "set it is", "fields": {"value": value}}
        assert type(found["fields"]["value"]) is type(value)

    @pytest.mark.parametrize(
        "arguments", [("set",), ("set", "a.b"), ("pause", "x"), ("get", "a.b", "3"), ("halt",), ()]
    )
    def test_what_does_not_fit_is_told_before_anything_is_sent(self, open_desk, arguments):
        assert self.ctl(open_desk, *arguments).exit_code == 2
        assert open_desk.obeyed == []

    def test_nobody_there(self, open_desk):
        open_desk.server.close()
        ended = CliRunner().invoke(
            app, ["ctl", "pause", "--endpoint", open_desk.endpoint, "--timeout", "0.3"], env=WIDE
        )
        assert ended.exit_code == 4

    def test_keys_and_endpoint_come_from_the_configuration(self, desk, keys, tmp_path):
        config = tmp_path / "config.toml"
        config.write_text(f'[control]\nendpoint = "{desk.endpoint}"\n[security]\ncurve_dir = "keys"\n')
        ended = CliRunner().invoke(app, ["ctl", "pause", "-c", str(config), "--timeout", "90"], env=WIDE)
        assert ended.exit_code == 0, ended.output
        assert desk.obeyed == [("pause", "operator")]
        (client_folder(keys, "operator")).rename(client_folder(keys, "gone"))
        ended = CliRunner().invoke(app, ["ctl", "pause", "-c", str(config)], env=WIDE)
        assert ended.exit_code == 2
        assert "--client operator --control" in ended.output
        curve = str(client_folder(keys, "gone"))
        ended = CliRunner().invoke(app, ["ctl", "pause", "-c", str(config), "--curve", curve], env=WIDE)
        assert ended.exit_code == 0, ended.output

    def test_a_worker_without_a_control_socket(self, tmp_path):
        config = tmp_path / "config.toml"
        config.write_text('[control]\nendpoint = ""\n')
        ended = CliRunner().invoke(app, ["ctl", "pause", "-c", str(config)], env=WIDE)
        assert ended.exit_code == 2
        assert "takes no commands" in ended.output


def test_a_taken_endpoint_is_an_error(open_desk):
    with pytest.raises(TransportError, match=r"control\.endpoint"):
        ControlServer(open_desk.endpoint, lambda _: None, lambda: ("", {}))

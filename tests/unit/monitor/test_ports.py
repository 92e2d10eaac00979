import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamrecon.monitor import ports
from streamrecon.monitor.ports import port_of, unused_ports


def test_they_are_different_and_can_be_bound():
    found = unused_ports(20)
    assert len(set(found)) == 20
    for port in found[:3]:
        socket.create_server(("127.0.0.1", port)).close()


def test_the_kernel_does_not_give_them_away():
    """What a connection or a bind to port 0 gets is never one of them."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first <= 11_000:
        pytest.skip("this host gives away nearly all ports")
    assert max(unused_ports(20)) < first


def test_one_that_is_taken_is_passed_over(monkeypatch):
    (taken,) = unused_ports(1)
    with socket.create_server(("127.0.0.1", taken)):
        monkeypatch.setattr(ports, "_LOWEST", taken)
        monkeypatch.setattr(ports, "_first_given_away", lambda: taken + 2)
        assert taken not in unused_ports(2)


@pytest.mark.parametrize("text", ["1024 65535", "nonsense", ""])
def test_where_there_is_no_room_below_the_kernel_is_asked(monkeypatch, tmp_path, text):
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "range")
    if text:
        (tmp_path / "range").write_text(text)
    assert len(set(unused_ports(5))) == 5


@pytest.fixture
def three(monkeypatch):
    """Let there be three ports to choose from, one behind the other; return the first."""
    with ExitStack() as stack:
        (first,) = unused_ports(1)
        while not all(ports._binds(stack.enter_context(socket.socket()), first + i) for i in range(3)):
            (first,) = unused_ports(1)
    while ports._held:
        ports._held.pop().close()
    monkeypatch.setattr(ports, "_LOWEST", first)
    monkeypatch.setattr(ports, "_first_given_away", lambda: first + 3)
    return first


def test_nobody_is_given_the_same_twice(three):
    """Neither by this process nor by another that looks before anybody has bound it."""
    taken = unused_ports(1)
    program = f"""
from streamrecon.monitor import ports
ports._LOWEST, ports._first_given_away = {three}, lambda: {three + 3}
print(*ports.unused_ports(1))
"""
    taken.append(int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout))
    taken += unused_ports(1)
    # the other process has ended: what it was given may be given again
    assert taken[0] != taken[1]
    assert taken[0] != taken[2]
    assert {*taken} <= {three, three + 1, three + 2}


def test_a_session_keeps_its_own_for_itself(three):
    assert unused_ports(1, avoid=[three, three + 2]) == [three + 1]


def test_marks_are_held_in_a_bounded_number(monkeypatch):
    monkeypatch.setattr(ports, "_MOST_HELD", 8)
    for _ in range(5):
        unused_ports(4)
    assert len(ports._held) <= ports._MOST_HELD


@pytest.mark.parametrize(
    ("endpoint", "port"), [("tcp://127.0.0.1:8760", 8760), ("[::1]:8750", 8750), ("", 0), ("tcp://127.0.0.1:*", 0)]
)
def test_the_port_of_an_endpoint(endpoint, port):
    assert port_of(endpoint) == port

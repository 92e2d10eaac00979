import os
import socket
import subprocess
import sys
from collections import deque
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
    """Let there be three ports to choose from, one behind the other, that nobody else is given; return the first."""
    with ExitStack() as stack:
        while True:
            (first,) = unused_ports(1)
            marks = [ports._mark(first + i) for i in (1, 2)]
            for mark in filter(None, marks):
                stack.enter_context(mark)
            with ExitStack() as bound:
                free = [ports._binds(bound.enter_context(socket.socket()), first + i) for i in range(3)]
            if all(marks) and all(free):
                break
        # whoever tries them meanwhile finds those marks; here and in a process that is told so, others count
        monkeypatch.setattr(ports, "_MARK", f"\0streamrecon-test-{os.getpid()}-{{}}")
        monkeypatch.setattr(ports, "_held", deque())
        monkeypatch.setattr(ports, "_LOWEST", first)
        monkeypatch.setattr(ports, "_first_given_away", lambda: first + 3)
        yield first
        ports._release()


def given_elsewhere(first):
    """Return the port that another process, in the same circumstances, is given."""
    program = f"""
from streamrecon.monitor import ports
ports._MARK, ports._LOWEST, ports._first_given_away = {ports._MARK!r}, {first}, lambda: {first + 3}
print(*ports.unused_ports(1))
"""
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)


def test_nobody_is_given_the_same_twice(three):
    """Neither by this process nor by another that looks before anybody has bound it."""
    taken = unused_ports(1)
    taken.append(given_elsewhere(three))
    taken += unused_ports(1)
    # the other process has ended: what it was given may be given again
    assert taken[0] != taken[1]
    assert taken[0] != taken[2]
    assert {*taken} <= {three, three + 1, three + 2}


def test_one_that_was_given_away_is_not_even_tried(three, monkeypatch):
    """Whom it was given to may be about to bind it, and could not while another tries whether that can be done."""
    binds, tried = ports._binds, []
    monkeypatch.setattr(ports, "_binds", lambda sock, port: tried.append(port) or binds(sock, port))
    given = [port for _ in range(3) for port in unused_ports(1)]
    assert sorted(given) == sorted(tried) == [three, three + 1, three + 2]


def test_what_is_held_makes_no_noise_at_the_end():
    program = "from streamrecon.monitor.ports import unused_ports; unused_ports(3)"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, check=True, text=True)
    assert done.stderr == ""


def test_a_session_keeps_its_own_for_itself(three):
    assert unused_ports(1, avoid=[three, three + 2]) == [three + 1]


def test_marks_are_held_in_a_bounded_number(monkeypatch):
    monkeypatch.setattr(ports, "_MOST_HELD", 8)
    monkeypatch.setattr(ports, "_held", deque())
    for _ in range(5):
        unused_ports(4)
    assert len(ports._held) == ports._MOST_HELD
    ports._release()


@pytest.mark.parametrize(
    ("endpoint", "port"), [("tcp://127.0.0.1:8760", 8760), ("[::1]:8750", 8750), ("", 0), ("tcp://127.0.0.1:*", 0)]
)
def test_the_port_of_an_endpoint(endpoint, port):
    assert port_of(endpoint) == port

import socket
from pathlib import Path

import pytest

from streamrecon.monitor import ports
from streamrecon.monitor.ports import unused_ports


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

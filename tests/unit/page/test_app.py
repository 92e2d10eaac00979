"""The page over HTTP: what it serves, to whom, and what it never does."""

import http.client
import json
import os

import mrcfile
import numpy as np
import pytest

from streamrecon.io import read_volume
from streamrecon.page import libraries
from streamrecon.page.hub import Hub
from streamrecon.page.serve import served
from streamrecon.page.view import SessionView
from streamrecon.transport import drafts
from tests.scripted_session import ledger_at, snapshot_at, status_at


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return the port of a page that shows a session, and its output folder."""
    output = tmp_path_factory.mktemp("session")
    (output / "snapshots").mkdir()
    (output / "snapshots" / "volume.mrc").write_bytes(b"map" * 200_000)
    (output / "ledger.sqlite").write_bytes(b"secret")
    view = SessionView(Hub(), "grid <7> & co")
    status = status_at(3000, symmetry="D2", symmetry_reason="its <copies> hold")
    for draft in (drafts.status_draft(status, 5.0), *drafts.snapshot_drafts(snapshot_at(3000), 6.0)):
        view.take(draft.build("s", 1))
    view.take_ledger(ledger_at(3100, 3000, bad=True))
    with served(view, output, "127.0.0.1:0") as port:
        yield port, output


def test_the_front_page_allows_nothing_from_elsewhere_and_no_inline_code(page):
    response, body = ask(page[0], "/")
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    text = body.decode()
    assert "://" not in text
    assert "<style" not in text
    assert "onclick" not in text
    for line in text.splitlines():
        assert "<script" not in line or "src=" in line


def test_the_viewer_is_shut_in(page):
    policy = ask(page[0], "/viewer")[0].headers["Content-Security-Policy"]
    assert "sandbox allow-scripts" in policy
    assert "connect-src data: blob:" in policy
    assert "allow-same-origin" not in policy


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_answers_get(page, method):
    for path in ("/", "/events", "/download/volume.mrc", "/plain"):
        assert ask(page[0], path, method)[0].status == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8750", 200),
        ("localhost:8750", 200),
        ("[::1]:8750", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8750", 421),
        ("", 421),
    ],
)
def test_a_name_that_is_not_the_loopbacks_is_refused(page, host, status):
    response, _ = ask(page[0], "/plain", Host=host)
    assert response.status == status
    assert "Content-Security-Policy" in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "/download/ledger.sqlite",
        "/download/..%2Fledger.sqlite",
        "/download/half_a.mrc",
        "/static/..%2F__init__.py",
        "/static/view.py",
        "/library/..%2F..%2Fyouplot%2F__init__.py",
        "/map/other.mrc",
        "/map/full/other.png",
        "/angular.png",
        "/nowhere",
    ],
)
def test_what_is_not_on_the_list_is_not_there(page, path):
    assert ask(page[0], path)[0].status == 404


def test_downloads_are_whole_and_named_after_the_session(page):
    port, output = page
    response, body = ask(port, "/download/volume.mrc")
    assert body == (output / "snapshots" / "volume.mrc").read_bytes()
    assert response.headers["Content-Disposition"] == 'attachment; filename="grid__7____co-volume.mrc"'


def test_a_download_is_of_one_file_though_it_is_replaced_meanwhile(page):
    port, output = page
    path = output / "particles.star"
    path.write_bytes(b"a" * 8_000_000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    connection.request("GET", "/download/particles.star")
    response = connection.getresponse()
    first = response.read(1000)
    new = output / "new"
    new.write_bytes(b"b" * 9_000_000)
    os.replace(new, path)  # noqa: PTH105  # the rename itself is what is tested
    rest = response.read()
    connection.close()
    assert first + rest == b"a" * 8_000_000


def test_the_map_is_an_mrc_file_that_others_read(page, tmp_path):
    body = ask(page[0], "/map/full.mrc")[1]
    path = tmp_path / "full.mrc"
    path.write_bytes(body)
    assert mrcfile.validate(path)
    volume, voxel = read_volume(path)
    np.testing.assert_array_equal(volume, snapshot_at(3000).volume)
    assert voxel == pytest.approx(3.2)


def test_pictures_are_pictures(page):
    for path in ("/map/full/slices.png", "/map/half_b/projections.png"):
        response, body = ask(page[0], path)
        assert response.headers["Content-Type"] == "image/png"
        assert body.startswith(b"\x89PNG")


def test_libraries_are_compressed_and_asked_for_once(page):
    response, body = ask(page[0], "/library/uplot.js", Accept_Encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    plain = ask(page[0], "/library/uplot.js")[1]
    assert len(body) < len(plain) / 2
    again, nothing = ask(page[0], "/library/uplot.js", If_None_Match=response.headers["ETag"])
    assert (again.status, nothing) == (304, b"")
    assert b"Leon Sorokin" in ask(page[0], "/licences.txt")[1]


def test_the_plain_page_has_numbers_pictures_reasons_and_links(page):
    text = ask(page[0], "/plain")[1].decode()
    assert "grid &lt;7&gt; &amp; co" in text
    assert "<td>3,000</td>" in text
    assert "section 7 holds values that are not numbers &lt;b&gt;here&lt;/b&gt;" in text
    assert "<b>here" not in text
    assert "/map/full/slices.png?v=s-1" in text
    assert "href='/download/volume.mrc'" in text
    assert "half_a.mrc: not yet" in text
    assert "<td>symmetry</td><td>D2 imposed (its &lt;copies&gt; hold)</td>" in text
    assert "<script" not in text


def test_without_the_extra_the_front_page_is_the_plain_one(page, monkeypatch):
    monkeypatch.setattr(libraries, "_locate", lambda name: None)
    text = ask(page[0], "/")[1].decode()
    assert "pip install 'streamrecon[page]'" in text
    assert "/map/full/slices.png" in text
    assert b"viewer_missing.js" in ask(page[0], "/viewer")[1]


def test_the_stream_is_server_sent_events(page):
    connection = http.client.HTTPConnection("127.0.0.1", page[0], timeout=90)
    connection.request("GET", "/events")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    text = b""
    while b"event: maps" not in text:
        text += response.read1(65536)
    line = next(part for part in text.decode().split("\n\n") if part.startswith("event: status"))
    assert json.loads(line.split("data: ", 1)[1])["particles_seen"] == 3000
    connection.close()

"""The page of a real daemon: from the first particle to the end, over a killed worker and a killed page."""

import http.client
import json
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.browser import browser, foreign, has_browser
from tests.e2e.daemon import Session, child, ended, started, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_browser(), reason="needs chromium and chromedriver (Debian: chromium chromium-driver)"),
]
SMALL = ("--box", 32, "--pixel-size", 6.4, "--snr", 0.2, "--micrographs-of", 25)


def downloaded(url):
    """Return what is served there; None if the page, which gives way to all others, is not answering just now."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
    except (OSError, http.client.HTTPException):
        return None


def served(url):
    """Return whether the page itself is there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return b"<title>streamrecon</title>" in answer.read()
    except (OSError, http.client.HTTPException):
        return False


def last_event(session):
    """Return the text of the last event that the worker published: it logs each."""
    lines = (line for line in session.logged().splitlines(keepends=True) if line.endswith("\n"))
    told = [json.loads(line) for line in lines if '"streamrecon.worker.loop"' in line and '"text"' in line]
    return told[-1]["text"]


def test_the_page_of_a_session_from_beginning_to_end(tmp_path):
    session = Session(tmp_path)
    url = f"http://{session.ports.monitor}/"
    microscope = ("simulate", session.incoming, "--truth", tmp_path / "truth", *SMALL)
    with (
        session.run() as daemon,
        started(*microscope, "--particles", 700, "--rate", 100, log=tmp_path / "microscope.log"),
        browser() as chromium,
    ):
        wait_for(lambda: served(url), daemon)
        chromium.open(url)

        def number(name):
            text = chromium.text(f"#n-{name}").replace(",", "")
            return int(text) if text.isdecimal() else 0

        wait_for(lambda: number("folded") >= 200, daemon)
        lonely = tmp_path / "lonely.star"
        lonely.write_text("data_particles\n\nloop_\n_rlnImageName\n1@gone.mrcs\n")
        lonely.rename(session.incoming / lonely.name)
        wait_for(lambda: number("in") >= number("folded"), daemon)
        first_worker = wait_for(lambda: child(daemon, "worker"), daemon)
        first_worker.kill()
        first_page = wait_for(lambda: child(daemon, "page"), daemon)
        wait_for(lambda: first_page.nice() >= 10, daemon)
        autogroup = Path(f"/proc/{first_page.pid}/autogroup")
        if autogroup.exists():  # niceness counts among a session's processes alone, and the page has one of its own
            wait_for(lambda: autogroup.read_text().endswith("nice 10\n"), daemon)
        first_page.kill()
        # metrics do not go with the page
        wait_for(lambda: "streamrecon_ingest_lag_seconds" in (session.metrics() or ""), daemon)
        wait_for(lambda: (found := child(daemon, "page")) and found.pid != first_page.pid, daemon)
        wait_for(lambda: (found := child(daemon, "worker")) and found.pid != first_worker.pid, daemon)
        wait_for(lambda: number("folded") == 700, daemon)
        wait_for(lambda: chromium.run("return document.getElementById('viewer').dataset.shown"), daemon)
        wait_for(lambda: chromium.run("return document.getElementById('slices').naturalWidth") == 3 * 32 + 8, daemon)
        wait_for(lambda: "Å" in chromium.text("#n-resolution"), daemon)
        # the page is new: it has the last event from before it came, and whatever came since
        wait_for(lambda: last_event(session) in chromium.text("#log"), daemon)
        wait_for(lambda: number("quarantine") == 1, daemon)
        wait_for(lambda: "lonely.star" in chromium.text("#quarantine"), daemon)
        volume = session.output / "snapshots" / "volume.mrc"
        wait_for(lambda: downloaded(f"{url}download/volume.mrc") == volume.read_bytes(), daemon)

        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
        assert not first_page.is_running()
        chromium.wait(lambda: "The daemon has ended" in chromium.text("#state-text"))
        chromium.wait(lambda: chromium.text("#state-title") == "Stopped")
        assert foreign(chromium.asked(), url.rstrip("/")) == []
        # the page was killed: whatever it had been asked for just then, a picture too, was cut off
        cut_off = ("net::ERR_", "503", "/events")
        assert [c for c in chromium.complaints() if not any(word in c for word in cut_off)] == []

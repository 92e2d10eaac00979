"""The daemon as a facility sees it: scraped by a real Prometheus, shown on the dashboards, heard of in a chat."""

import math
import shutil
import signal
import subprocess

import pytest

from tests.e2e.daemon import Session, child, ended, figure, started, wait_for
from tests.e2e.prometheus import needs_prometheus, running, write_configuration
from tests.unit.deploy.test_grafana import NAMES, expressions, panels
from tests.unit.deploy.test_prometheus import rules
from tests.unit.notices.servers import Chat

pytestmark = [pytest.mark.slow, needs_prometheus]
INSTANCE = "grid7"
# there, but not a number: the share in use of a device that there is not, and what takes longer to judge than we wait
NOT_A_NUMBER = (
    "instance:streamrecon_gpu_memory_used:ratio",
    "streamrecon_worker_inlier_ratio",
    "streamrecon_worker_resolution_masked_angstrom",
    "streamrecon_worker_angular_efficiency_ratio",
    "streamrecon_worker_conical_fsc_area_ratio",
)
MORE = """
[snapshot]
every_images = 200

[checkpoint]
every_seconds = 1.0

[notify]
webhook = "slack"
webhook_url_file = "hook"
events = ["stalled", "session_end", "failure"]
"""
MICROSCOPE = ("--box", 32, "--pixel-size", 6.4, "--snr", 0.2, "--micrographs-of", 25)


def has_data(prometheus, expression):
    values = [value for _, value in prometheus.query(expression)]
    return any(not math.isnan(value) for value in values) or (values and expression.startswith(NOT_A_NUMBER))


def test_a_session_on_every_panel_and_in_the_chat(tmp_path):
    session = Session(tmp_path, more=MORE)
    queries = [e.replace("$instance", INSTANCE) for name in NAMES for p in panels(name) for e in expressions(p)]
    queries += [rule["record"] for rule in rules("record")]
    microscope = ("simulate", session.incoming, "--truth", tmp_path / "truth", *MICROSCOPE)
    targets = {INSTANCE: (session.ports.monitor, "/metrics")}
    config = write_configuration(tmp_path, targets, scrape_seconds=1.0)
    with Chat() as chat:
        hook = tmp_path / "hook"
        hook.write_text(chat.url)
        hook.chmod(0o600)
        with (
            started(*microscope, "--particles", 3000, "--rate", 100, log=tmp_path / "microscope.log"),
            session.run() as daemon,
            running(tmp_path, config) as prometheus,
        ):
            left = set(queries)

            def all_have_data():
                left.difference_update([query for query in left if has_data(prometheus, query)])
                return not left

            try:
                wait_for(all_have_data, daemon, 300)
            finally:
                assert left == set()
            assert prometheus.firing() == set()

            page = wait_for(session.metrics, daemon)
            if shutil.which("promtool"):
                checked = subprocess.run(
                    ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=120
                )
                assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

            wait_for(lambda: child(daemon, "worker"), daemon).kill()
            chat.wait_for(lambda texts: any("worker ended unexpectedly with exit code -9" in t for t in texts))
            sent = ("streamrecon_supervisor_notices_total", ("channel", "webhook"), ("outcome", "sent"))
            # on a busy machine that the stream has stalled may have been told too
            wait_for(lambda: (figure(session, *sent) or 0) >= 1, daemon)
            # page and notices follow the new worker, so that its end is heard
            wait_for(lambda: "streamrecon_worker_subscribers 2.0" in (session.metrics() or ""), daemon)
            daemon.send_signal(signal.SIGINT)
            assert ended(daemon) == 0
        texts = chat.texts()
    assert any("the reconstruction ended (stopped)" in text for text in texts), texts
    assert all(text.startswith("session: ") for text in texts)
    assert chat.url not in session.logged()
    assert "SECRET" not in session.logged()

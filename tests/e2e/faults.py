"""Sessions that play a fault, on the metrics classes of the daemon: what Prometheus is shown in the test of alerts."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from streamrecon.monitor.metrics import IngestMetricsExporter, SupervisorMetrics, WorkerMetrics
from streamrecon.reconstruct.results import EngineStatus

EFFICIENCY = "streamrecon_worker_angular_efficiency_ratio"
# far more particles than the rules ask for: on a busy machine the ticks are longer
TICK_SECONDS = 0.2
PARTICLES = 1000


class Scene:
    """A session in which all is well until `fault` says otherwise; `page` is what it serves, None for no answer."""

    def __init__(self):
        self.fault = ""
        self.registries = {name: CollectorRegistry() for name in ("supervisor", "ingest", "worker")}
        self.supervisor = SupervisorMetrics(self.registries["supervisor"])
        self.ingest = IngestMetricsExporter(self.registries["ingest"])
        self.worker = WorkerMetrics(self.registries["worker"])
        # where the worker serves it already, its own gauge is set
        names = self.registries["worker"]._names_to_collectors
        self.efficiency = names.get(EFFICIENCY) or Gauge(EFFICIENCY, "as published", registry=self.registries["worker"])
        self.seen = 0
        self.resolution = 20.0
        self.restarts = 0
        self.told = False
        self.page = b""
        self.tick()

    def tick(self):
        """Let a moment pass."""
        self.seen += PARTICLES
        if self.fault != "StreamreconResolutionStalls":
            self.resolution *= 0.998
        self._supervisor()
        self._ingest()
        self._worker()
        self._render()

    def _supervisor(self):
        self.supervisor.up("ingest", True)
        self.supervisor.up("worker", self.fault != "StreamreconProcessDown")
        free = 30e9 if self.fault == "StreamreconDiskNearlyFull" else 500e9
        self.supervisor.filesystem("output_dir", free, 1000e9)
        self.supervisor.notice("email", "sent")
        if self.fault == "StreamreconNoticesFail" and not self.told:
            self.told = True
            self.supervisor.notice("email", "failed")
        if self.fault == "StreamreconRestarting" and self.restarts < 4:
            self.restarts += 1
            self.supervisor.restarted("worker")

    def _ingest(self):
        self.ingest.root_present(self.fault != "StreamreconWatchedFolderMissing")
        self.ingest.lag_seconds(400.0 if self.fault == "StreamreconLag" else 5.0)
        if self.fault != "StreamreconNoParticles":
            self.ingest.stack_ready(PARTICLES)
        if self.fault == "StreamreconQuarantine":
            self.ingest.quarantined("stack_corrupt")

    def _worker(self):
        known = self.seen > 3 * PARTICLES
        resolution = self.resolution * (1.5 if self.fault == "StreamreconHalfSetsDiverge" else 1.0)
        status = EngineStatus(
            stage="searching" if self.fault == "StreamreconPosesLost" or not known else "settled",
            particles_seen=self.seen,
            image_visits=self.seen,
            step=1,
            k_max=8,
            temperature=1.0,
            effective_sample_size=2.0,
            coarse_entropy=0.5,
            resolution_angstrom=resolution if known else float("nan"),
            fsc_kind="common",
            step_seconds=0.1,
            images_per_second=500.0,
            evaluations_per_image=96.0,
            log_evidence=1.0,
        )
        self.worker.status(status)
        self.efficiency.set(0.3 if self.fault == "StreamreconPreferredOrientation" else 0.8)
        self.worker.gpu_memory(
            79_000_000_000 if self.fault == "StreamreconGpuMemory" else 40_000_000_000, 80_000_000_000
        )
        if self.fault == "StreamreconCheckpointOld":
            self.worker.unacknowledged(5)
            self.worker._last_checkpoint -= 400  # as if it were so long ago
        else:
            self.worker.unacknowledged(1)
            self.worker.checkpoint_durable(1000, 0.1)

    def _render(self):
        if self.fault == "StreamreconDown":
            self.page = None
            return
        missing = {"StreamreconProcessDown": "worker", "StreamreconSeriesMissing": "ingest"}.get(self.fault)
        self.page = b"".join(generate_latest(r) for name, r in self.registries.items() if name != missing)


@contextmanager
def stage(scenes):
    """Let scenes live and serve each under its name as a path; yields host:port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            page = scenes[self.path.strip("/")].page
            self.send_response(200 if page is not None else 503)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(page or b"")))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    ended = threading.Event()

    def live():
        while not ended.wait(TICK_SECONDS):
            for scene in scenes.values():
                scene.tick()

    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}),
        threading.Thread(target=live),
    ]
    for thread in threads:
        thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join()

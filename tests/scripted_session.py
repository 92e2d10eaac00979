"""A session that goes by a script: the real publisher, the real page, and messages as an engine sends them."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import healpix
import msgspec
import numpy as np
import scipy.fft

from streamrecon.assess.report import Assessment
from streamrecon.compare.session import free_ports
from streamrecon.config.model import PublishConfig
from streamrecon.monitor.server import MonitorServer
from streamrecon.page.follow import follow
from streamrecon.page.hub import Hub
from streamrecon.page.serve import served
from streamrecon.page.view import SessionView
from streamrecon.reconstruct.results import EngineStatus, Snapshot
from streamrecon.transport.publisher import Publisher
from tests.simulated import f1_atpase

BOX, VOXEL = 64, 3.2
SIDE = BOX * VOXEL
NOW = 1_750_000_000.0
B_FACTOR, INTERCEPT = 220.0, 5.2
_PATIENCE_SECONDS = 90.0


def resolution_at(particles: int) -> float:
    """Return the resolution that a straight line of ln N against 1/d^2 gives."""
    return float(1.0 / np.sqrt(max(1e-4, (np.log(particles) - INTERCEPT) / (2.0 * B_FACTOR))))


def status_at(particles: int, stage: str | None = None, **changes: Any) -> EngineStatus:
    """Return the status of an engine that has seen so many particles, some of it changed."""
    stage = stage or ("searching" if particles < 2500 else "settled" if particles < 5000 else "refining")
    wobble = np.sin(particles / 370.0)
    status = EngineStatus(
        stage=stage,
        particles_seen=particles,
        image_visits=particles,
        step=particles // 100,
        k_max=8 + min(20, particles // 350),
        temperature=1.0 if stage != "searching" else 4.0 - 3.0 * particles / 2500,
        effective_sample_size=1.4 + 30.0 * np.exp(-particles / 900.0) + 0.1 * wobble,
        coarse_entropy=0.6,
        resolution_angstrom=resolution_at(particles) if particles > 300 else float("inf"),
        fsc_kind="gold_standard" if stage == "refining" else "common",
        step_seconds=0.62,
        images_per_second=150.0 + 8.0 * wobble,
        evaluations_per_image=105.0,
        log_evidence=180.0 * (1.0 - np.exp(-particles / 1500.0)) + 3.0 * wobble,
    )
    return replace(status, **changes)


def snapshot_at(particles: int) -> Snapshot:
    """Return F1-ATPase at the resolution of so many particles, each half with noise of its own."""
    status = status_at(particles)
    d = status.resolution_angstrom
    fsc = 1.0 / (1.0 + np.exp((np.arange(BOX // 2 + 1) - SIDE / d) * 0.6 + np.log(0.143 / 0.857) * -1.0 - 3.6))
    fsc = np.clip(fsc + 0.01 * np.sin(np.arange(BOX // 2 + 1) * 1.7 + particles), -0.1, 1.0)
    fsc[0] = 1.0
    whole = _filtered(round(min(d, 100.0)))
    a, b = (0.05 * whole.std() * noise for noise in _noise())
    return Snapshot(whole, whole + a, whole + b, fsc.astype(np.float32), VOXEL, d, 0.143, status)


@cache
def _noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, BOX, BOX, BOX)).astype(np.float32)


@cache
def _specimen() -> np.ndarray:
    return f1_atpase(BOX, VOXEL)


@cache
def _filtered(resolution: float) -> np.ndarray:
    volume = _specimen()
    frequency = np.linalg.norm(np.meshgrid(*[scipy.fft.fftfreq(BOX, VOXEL)] * 3, indexing="ij"), axis=0)
    smooth = scipy.fft.ifftn(scipy.fft.fftn(volume) * np.exp(-((frequency * resolution) ** 2))).real
    return np.ascontiguousarray(smooth, np.float32)


def assessment_at(particles: int) -> dict[str, Any]:
    """Return what an assessment tells after so many particles, every field known."""
    snapshot = snapshot_at(particles)
    shells = np.arange(BOX // 2 + 1)
    corrected = 1.0 / (1.0 + np.exp((shells - SIDE / snapshot.resolution_angstrom - 3.0) * 0.7))
    seen = np.unique(np.geomspace(500, particles, 60).astype(int))
    n_side = 8
    x, y, z = healpix.pix2vec(n_side, np.arange(12 * n_side**2))
    counts = np.random.default_rng(3).poisson(particles / 768 * (0.35 + 1.6 * z**4 + 0.5 * x**2 * (y > 0)))
    edges = np.linspace(9_000, 26_000, 18)
    centres = (edges[1:] + edges[:-1]) / 2
    ahead = [(d, float(np.exp(INTERCEPT + 2.0 * B_FACTOR / d**2))) for d in (8.0, 7.0, 6.0)]
    names = ("opticsGroup1", "opticsGroup2", "opticsGroup3")
    return {
        "box_size": BOX,
        "voxel_size_angstrom": VOXEL,
        "resolution_unmasked_angstrom": snapshot.resolution_angstrom,
        "resolution_masked_angstrom": 0.92 * snapshot.resolution_angstrom,
        "resolution_half_angstrom": 1.3 * snapshot.resolution_angstrom,
        "fsc_unmasked": snapshot.fsc.tolist(),
        "fsc_masked": np.clip(corrected + 0.02, 0, 1).tolist(),
        "fsc_randomised": np.where(shells < 10, corrected, 0.04 * np.cos(shells)).tolist(),
        "fsc_corrected": corrected.tolist(),
        "b_factor_angstrom2": B_FACTOR,
        "sharpening_b_factor": -B_FACTOR,
        "resolution_history": [[int(n), resolution_at(int(n))] for n in seen],
        "fit": {"b_factor_angstrom2": B_FACTOR, "b_factor_low": 200.0, "b_factor_high": 245.0, "points": 40},
        "forecast": [
            {
                "resolution_angstrom": d,
                "particles": round(n),
                "particles_low": round(0.7 * n),
                "particles_high": round(1.5 * n),
                "hours": n / 150.0 / 3600.0,
                "hours_low": 0.7 * n / 540_000,
                "hours_high": 1.5 * n / 540_000,
            }
            for d, n in ahead
        ],
        "angular_n_side": n_side,
        "angular_counts": counts.tolist(),
        "angular_efficiency": 0.71,
        "tilt_suggestion_degrees": 30.0,
        "conical_fsc_area_ratio": 0.82,
        "noise_variance": [(s * (0.4 + 0.6 * np.exp(-shells / 12))).tolist() for s in (1.0, 1.15, 0.9)],
        "optics_groups": [
            {
                "name": name,
                "particles": particles // 3 + i,
                "mean_log_evidence": 176.0 - 4.0 * i,
                "mean_effective_sample_size": 1.5 + 0.1 * i,
                "amplitude_scale": 1.0 - 0.04 * i,
                "inlier_share": 0.97 - 0.05 * i,
            }
            for i, name in enumerate(names)
        ],
        "defocus_edges_angstrom": edges.tolist(),
        "defocus_counts": (particles * 0.06 * np.exp(-(((centres - 16_000) / 5_500) ** 2))).astype(int).tolist(),
        "symmetry": {"group": "C1", "correlation": 0.4, "asked": False, "note": ""},
    }


def ledger_at(particles_in: int, folded: int, *, bad: bool = False, lag: float = 2.4) -> dict[str, Any]:
    """Return what `streamrecon status --json` tells of so many particles."""
    reasons = [
        ("grid2/mic_00041.mrcs", "stack_incomplete", "the header says 50 sections, the file holds 31; write it again"),
        ("grid2/mic_00042.mrcs", "stack_corrupt", "section 7 holds values that are not numbers <b>here</b>"),
        ("job007/particles.star", "manifest_mismatch", "row 812 names section 51 of a stack of 50"),
    ]
    entries = [
        {"path": path, "identity": "", "kind": kind, "reason": reason, "at": NOW + 60 * i, "dismissed_at": None}
        for i, (path, kind, reason) in enumerate(reasons if bad else ())
    ]
    orphan = {"name": "grid2/mic_00050.mrcs", "reason": "no STAR or .cs file names it", "since": NOW}
    return {
        "running": {"ingest": True, "worker": True},
        "attention": [],
        "stacks": {"ready": particles_in // 50, "settling": 1} if particles_in else {},
        "manifests": {"ready": 1} if particles_in else {},
        "batches": {"folded": folded // 100},
        "particles": {"ready": 0, "queued": particles_in - folded, "folded": folded, "quarantined": 0},
        "lag_seconds": lag if particles_in > folded else 0.0,
        "checkpoint": {"number": 3, "age_seconds": 4.0},
        "orphans": [orphan] if bad else [],
        "quarantine": {"open": len(entries), "dismissed": 0, "retries_asked": 0, "entries": entries},
    }


class ScriptedSession:
    """A publisher, and a page that follows it behind the daemon's front door; a context manager.

    Attributes
    ----------
    url : str
    view : SessionView
    publisher : Publisher
    """

    def __init__(self, output_dir, name: str = "grid 7, F1-ATPase"):
        self.output_dir, self.name = output_dir, name
        self.ports = free_ports()
        self._page = ExitStack()

    def __enter__(self):
        self.start_worker()
        self.start_page()
        return self

    def __exit__(self, *error):
        self.stop_page()
        self.publisher.close("stopped")

    @property
    def url(self):
        return f"http://{self.ports.monitor}"

    def start_worker(self):
        """Begin to publish."""
        ports = self.ports
        self.publisher = Publisher(
            ports.events, ports.volumes, ports.snapshots, session_name=self.name, heartbeat_seconds=0.2
        )

    def start_page(self):
        """Serve the page, new and empty, at the same address as before."""
        ports, stop = self.ports, threading.Event()
        config = PublishConfig(
            events=ports.events, volumes=ports.volumes, snapshots=ports.snapshots, heartbeat_seconds=0.2
        )
        self.view = SessionView(Hub(), self.name)
        follower = threading.Thread(target=follow, args=(self.view, config, None, stop), daemon=True)
        follower.start()
        port = self._page.enter_context(served(self.view, self.output_dir, "127.0.0.1:0"))
        self._page.enter_context(MonitorServer(ports.monitor, lambda: b"", lambda: (True, {}), lambda: port))
        self._page.callback(stop.set)

    def stop_page(self):
        """Take the page away; its browsers lose their connection."""
        self._page.close()

    def publish(self, particles: int, *, maps: bool = True):
        """Send what an engine sends after so many particles."""
        self.publisher.publish_status(status_at(particles))
        if maps:
            self.publisher.publish_snapshot(snapshot_at(particles))

    def ramp(self, particles: int, step: int = 100):
        """Send every status up to so many particles, as they make the curves, and the maps of the last."""
        for seen in range(step, particles, step):
            self.publish(seen, maps=False)
            self.arrived(seen)
        self.publish(particles)
        self.arrived(particles)

    def arrived(self, particles: int):
        """Wait until the page knows of so many particles."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.view.hub.get("status").get("particles_seen") != particles:
            assert time.monotonic() < deadline, f"{particles} never arrived"
            time.sleep(0.001)

    def assess(self, particles: int):
        """Publish an assessment, and wait until the page has it."""
        told = assessment_at(particles)
        self.publisher.publish_assessment(msgspec.convert(told, Assessment), snapshot_at(particles).status)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.view.hub.get("assessment").get("particles_seen") != particles:
            assert time.monotonic() < deadline, f"the assessment after {particles} never arrived"
            time.sleep(0.001)

    def tell_ledger(self, particles_in: int, folded: int, **options):
        """Hand the page what it would find in the ledger."""
        self.view.take_ledger(ledger_at(particles_in, folded, **options))

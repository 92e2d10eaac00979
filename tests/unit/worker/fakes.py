"""Stand-ins for tests of the worker: an engine that sums images, a feed that keeps a ledger in memory."""

import numpy as np

from streamrecon.errors import NumericalError
from streamrecon.geometry.orientation import Orientation
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleBatch, ParticleTable
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot

BOX = 16
PIXEL = 3.0


def make_group(name="one", pixel=PIXEL, box=BOX):
    return OpticsGroup(name, 300.0, 2.7, 0.1, pixel, box)


def make_batch(number, n=20, *, white=True, box=BOX, pixel=PIXEL, group="one"):
    rng = np.random.default_rng(number)
    y, x = np.indices((box, box)) - box // 2
    blob = (3.0 if white else -3.0) * np.exp(-(x**2 + y**2) / 16.0)
    images = (blob + rng.normal(size=(n, box, box))).astype(np.float32)
    table = ParticleTable(
        optics_groups=(make_group(group, pixel, box),),
        stack_names=(f"stack{number}.mrcs",),
        optics_group_index=np.zeros(n, np.int32),
        stack_number=np.zeros(n, np.int32),
        stack_index=np.arange(n, dtype=np.int32),
        defocus_u_angstrom=np.full(n, 15000, np.float32),
        defocus_v_angstrom=np.full(n, 15000, np.float32),
        astigmatism_angle_degrees=np.zeros(n, np.float32),
        phase_shift_degrees=np.zeros(n, np.float32),
    )
    return ParticleBatch(images, table, tuple(table.identities()))


class SumEngine:
    """Sums images by half, in order; NumericalError on a batch with an extreme value."""

    layout = None  # nothing is kept
    device_memory = None
    orientation = Orientation()

    def __init__(self, config, box_size, pixel_size_angstrom):
        self.box_size, self.pixel = box_size, pixel_size_angstrom
        self.sums = np.zeros((2, box_size, box_size), np.float32)
        self.seen = 0

    @property
    def status(self):
        return EngineStatus(
            stage="searching" if self.seen < 200 else "settled",
            particles_seen=self.seen,
            image_visits=self.seen,
            step=0,
            k_max=8,
            temperature=1.0,
            effective_sample_size=1.0,
            coarse_entropy=float("nan"),
            resolution_angstrom=float("inf"),
            fsc_kind="common",
            step_seconds=0.0,
            images_per_second=1.0,
            evaluations_per_image=1.0,
            log_evidence=0.0,
        )

    def fold(self, batch):
        if np.abs(batch.images).max() > 1e6:
            raise NumericalError("extreme value")
        for image, half in zip(batch.images, batch.half, strict=True):
            # not associative on purpose: order and number of additions show
            self.sums[half] = self.sums[half] * np.float32(0.999) + image
        n = len(batch)
        self.seen += n
        ones = np.ones(n, np.float32)
        rotation = np.broadcast_to(np.eye(3, dtype=np.float32), (n, 3, 3))
        return BatchResult(rotation, np.zeros((n, 2), np.float32), ones, ones, ones, n, 0.01)

    def snapshot(self):
        volumes = [np.broadcast_to(s, (self.box_size,) * 3).astype(np.float32) for s in self.sums]
        fsc = np.linspace(1, 0, self.box_size // 2 + 1, dtype=np.float32)
        whole = volumes[0] + volumes[1]
        return Snapshot(whole, *volumes, fsc, self.pixel, float("inf"), 0.143, self.status)

    def close(self):
        pass

    def state(self):
        return EngineState({"sums": self.sums.copy()}, {"seen": self.seen})

    def restore(self, state):
        self.sums = np.array(state.arrays["sums"])
        self.seen = state.scalars["seen"]


def link_of(batch_id):
    """Return what the ledger's chain has at a batch."""
    return f"link {batch_id}"


class Ledger:
    """What an ingester knows: survives the worker."""

    def __init__(self, batches, session="ledger"):
        self.session = session
        self.batches = dict(batches)
        self.acked = set()
        self.nacked = {}

    def connect(self, folded, session, folded_link):
        if session not in ("", self.session) or (folded and folded_link != link_of(max(folded))):
            raise AssertionError("checkpoint of another ledger")
        self.acked |= set(folded)
        return FakeFeed(self)


class FakeFeed:
    def __init__(self, ledger):
        self.ledger = ledger
        self.session = ledger.session
        self.paused = False
        self.draining = False
        self.handed_out = set()
        self.on_ack = None

    @property
    def drained(self):
        return set(self.ledger.batches) <= self.ledger.acked | set(self.ledger.nacked)

    def link(self, batch_id):
        return link_of(batch_id)

    def poll(self, timeout_seconds):
        for batch_id, batch in self.ledger.batches.items():
            if batch_id not in self.ledger.acked | self.handed_out | set(self.ledger.nacked):
                self.handed_out.add(batch_id)
                self.paused = False
                return batch_id, batch
        self.paused = True
        return None

    def ack(self, batch_ids):
        if self.on_ack is not None:
            self.on_ack()
        self.ledger.acked |= set(batch_ids)

    def drain(self):
        self.draining = True

    def nack(self, batch_id, kind, reason):
        self.ledger.nacked[batch_id] = (kind, reason)


class FakePublisher:
    subscribers = 0

    def __init__(self):
        self.statuses, self.snapshots, self.events, self.poses = [], [], [], []
        self.assessments = []

    def publish_status(self, status):
        self.statuses.append(status)

    def publish_snapshot(self, snapshot):
        self.snapshots.append(snapshot)

    def publish_poses(self, batch_id, result, half, status):
        self.poses.append((batch_id, result, half, status))

    def publish_assessment(self, assessment, status):
        self.assessments.append((assessment, status))

    def publish_event(self, kind, text, **fields):
        self.events.append((kind, text, fields))

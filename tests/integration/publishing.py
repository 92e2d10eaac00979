"""What tests of the stream publish: made-up engine output that can be told apart."""

import numpy as np

from streamrecon.reconstruct.results import BatchResult, EngineStatus, Snapshot
from streamrecon.transport import schema

FREE_PORT = "tcp://127.0.0.1:0"
# what publishing a snapshot, a status, poses and an event leaves to be asked for
PUBLISHED = {*schema.ON_VOLUMES_SOCKET, schema.FSC, schema.POSES, schema.STATUS, schema.EVENT, schema.SESSION}


def make_status(seen=100):
    return EngineStatus(
        stage="searching",
        particles_seen=seen,
        image_visits=seen,
        step=seen // 100,
        k_max=8,
        temperature=2.0,
        effective_sample_size=5.0,
        coarse_entropy=float("nan"),
        resolution_angstrom=float("inf"),
        fsc_kind="common",
        step_seconds=0.5,
        images_per_second=100.0,
        evaluations_per_image=96.0,
        log_evidence=1.0,
    )


def make_snapshot(value=1.0, box=8):
    volume = np.full((box, box, box), value, np.float32)
    return Snapshot(
        volume=volume,
        half_a=volume + 1,
        half_b=volume + 2,
        fsc=np.linspace(1, 0, box // 2 + 1, dtype=np.float32),
        voxel_size_angstrom=3.0,
        resolution_angstrom=20.0,
        fsc_threshold=0.143,
        status=make_status(),
    )


def make_result(n):
    rng = np.random.default_rng(n)
    columns = [rng.normal(size=shape).astype(np.float32) for shape in ((n, 3, 3), (n, 2), (n,), (n,), (n,))]
    return BatchResult(*columns, evaluations=n, step_seconds=0.1)

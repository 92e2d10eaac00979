"""The processes of the ranks: they do their part, end in order with rank 0, and are killed if they cannot."""

import os
import signal

import numpy as np
import psutil
import pytest

from streamrecon.config.model import Config
from streamrecon.errors import RankLost
from streamrecon.reconstruct.engine import Engine
from streamrecon.worker.engine import make_engine
from tests.simulated import batches, f1_atpase

BOX, PIXEL = 32, 6.4


def config(devices):
    engine = {
        "starts": 1, "threads": 1, "search_shells": 8, "in_plane_angles": 24, "direction_order": 2, "samples": 16,
    }  # fmt: skip
    compute = {"backend": "cpu", "devices": devices, "patience_seconds": 120.0}
    return Config.model_validate({"engine": engine, "compute": compute, "session": {"seed": 1}})


def test_a_process_takes_its_part_and_is_ended_even_where_it_hangs(capfd):
    data = [b for b, _ in batches(f1_atpase(BOX, PIXEL), PIXEL, 60, 4.0, seed=3, size=30)]
    alone = make_engine(config([0]), BOX, PIXEL)
    assert isinstance(alone, Engine)
    expected = alone.fold(data[0])
    shared = make_engine(config([0, 1]), BOX, PIXEL)
    before = psutil.Process(os.getpid())
    (rank_1,) = [p for p in before.children() if "streamrecon.worker.ranks.follower" in p.cmdline()]
    try:
        np.testing.assert_allclose(shared.fold(data[0]).rotation, expected.rotation, atol=1e-4)
        worked = rank_1.cpu_times().user
        rank_1.send_signal(signal.SIGSTOP)
        shared._team.link._patience_seconds = 2.0  # not before: a rank may take long to get going
        silent = rf"rank 1 \(device 1, process {rank_1.pid}\): silent for 2 s"
        with pytest.raises(RankLost, match=silent):
            shared.fold(data[1])
        assert worked > 0
    finally:
        shared.close()
    assert not rank_1.is_running()
    assert "worker, rank 1" in capfd.readouterr().out  # its log is the worker's


def test_auto_without_a_gpu_is_one_process(monkeypatch):
    """All cores are then this process's own; a CPU process an entry is only what asks for it by name."""
    settings = config([0, 1])
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"backend": "auto"})})
    monkeypatch.setattr("streamrecon.worker.engine.choose_backend", choose_cpu)
    assert isinstance(make_engine(settings, BOX, PIXEL), Engine)


def choose_cpu(settings, threads):
    from streamrecon.compute.choose import ChosenBackend
    from streamrecon.compute.cpu import CpuBackend

    assert threads == 1
    return ChosenBackend(CpuBackend(1), "no CUDA device can be used")

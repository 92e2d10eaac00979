"""The roofline benchmark runs the engine's kernels, and its shares of the time are shares."""

from dataclasses import replace

import pytest

from benchmarks import roofline
from benchmarks.gpu_roofline import shapes_for
from benchmarks.kernel_costs import kernel_costs
from streamrecon.compute.cpu_kernels.slices import TILE_POINTS


def test_a_small_case(monkeypatch):
    monkeypatch.setattr(roofline, "_CASES", {64: (8, 4)})
    monkeypatch.setattr(roofline, "_REPEATS", 1)
    rows, about = roofline.measure(64, 1, {"gemm": 100.0, "copy": {2**20: 50.0, 2**30: 10.0}})
    named = {row["kernel"] for row in rows}
    assert {"score_poses", "insert_slices", "correlate", "solve + cube"} <= named
    assert sum(int(row["of time"].rstrip("%")) for row in rows) == pytest.approx(100, abs=len(rows))
    assert about["images_per_second"] > 0
    score = next(row for row in rows if row["kernel"] == "score_poses")
    assert score["GFLOP/s"] == pytest.approx(score["MFLOP"] / score["ms/image"])


def test_tiles_keep_a_gather_in_a_nearer_cache():
    """At 112 shells the cube is larger than every cache; what a tile of its points touches is not."""
    at_256 = shapes_for(256)
    whole, tiled = kernel_costs(at_256), kernel_costs(replace(at_256, tile_points=TILE_POINTS))
    for kernel in ("score_poses", "insert_slices"):
        assert whole[kernel].working_set > 2**28
        assert tiled[kernel].working_set < 2**20
        assert tiled[kernel].bytes == whole[kernel].bytes

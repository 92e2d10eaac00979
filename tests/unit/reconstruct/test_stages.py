"""What moves a reconstruction from stage to stage."""

from streamrecon.reconstruct.counters import from_prefix, with_prefix
from streamrecon.reconstruct.stages import Stages


def test_the_way_forward():
    stages = Stages()
    assert not stages.note_band(0)  # nothing to hand over while searching
    stages.settle(0.4)
    assert stages.name == "settled"
    assert "0.40" in stages.reason
    assert [stages.note_band(m) for m in (3, 1, 0, 4, 1, 1)] == [False] * 6
    assert stages.note_band(0)
    stages.hand_over(22)
    assert (stages.name, stages.split) == ("refining", False)
    assert "22 shells" in stages.reason
    stages.settle(0.1)  # a settled annealer does not undo a hand-over
    assert stages.name == "refining"


def test_what_an_earlier_release_saved_is_read():
    """It knew a count more, which nothing ever read."""
    stages = Stages(name="refining", reason="band at rest at 22 shells", split=True, lost=3)
    saved = with_prefix("stage_", stages) | {"stage_refining_since": 5000}
    assert from_prefix(Stages, "stage_", saved) == stages
    assert "stage_refining_since" not in with_prefix("stage_", stages)


def test_the_way_back_when_new_images_contradict_the_map():
    stages = Stages()
    assert not any(stages.note_entropy(9.0) for _ in range(30))  # searching is wide by nature
    stages.settle(0.4)
    stages.hand_over(22)
    stages.split = True
    entropies = [3.0] * 9 + [0.2] + [3.0] * 10
    lost = [stages.note_entropy(e) for e in entropies]
    assert lost == [False] * 19 + [True]
    stages.search_again()
    assert (stages.name, stages.split, stages.lost) == ("searching", False, 0)
    assert "contradict" in stages.reason


def test_the_way_back_when_the_log_evidence_falls():
    """Poor batches now and then, or a slow decline, are not a contradiction; ten in a row far below are."""
    stages = Stages()
    assert not any(stages.note_evidence(-50.0) for _ in range(30))  # nothing is expected of a search
    stages.settle(0.4)
    assert not any(stages.note_evidence(e) for e in [60.0] * 20 + [1.0] * 9 + [50.0] + [15.0] * 30)
    lost = [stages.note_evidence(2.0) for _ in range(10)]
    assert lost == [False] * 9 + [True]
    stages.search_again()
    assert stages.name == "searching"
    assert "log-evidence 2.0 nats" in stages.reason
    assert (stages.poor, stages.evidence_batches) == (0, 0.0)

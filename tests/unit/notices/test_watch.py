"""What is told of a session, and what is not."""

import pytest

from streamrecon.client import EventMessage, SessionMessage, StatusMessage
from streamrecon.config.notify import NotifyConfig
from streamrecon.notices.watch import Watch
from streamrecon.transport import schema

ENVELOPE = {"session_id": "s", "sequence": 1, "timestamp": 0.0}


def status(stage="searching", seen=100, resolution=None, fsc_kind="common"):
    numbers = dict.fromkeys(
        ("temperature", "effective_sample_size", "coarse_entropy", "step_seconds", "images_per_second"), 1.0
    )
    header = schema.StatusHeader(
        **ENVELOPE,
        **numbers,
        evaluations_per_image=1.0,
        log_evidence=None,
        stage=stage,
        particles_seen=seen,
        image_visits=seen,
        resolution_angstrom=resolution,
        fsc_kind=fsc_kind,
        step=1,
        k_max=8,
    )
    return StatusMessage(schema.STATUS, header)


def event(kind, text="words"):
    return EventMessage(schema.EVENT, schema.EventHeader(**ENVELOPE, kind=kind, text=text))


def session(state, reason=""):
    header = schema.SessionHeader(**ENVELOPE, state=state, name="grid7", software_version="1", reason=reason)
    return SessionMessage(schema.SESSION, header)


def watch(**config):
    return Watch(NotifyConfig(**config), "grid7", 0.0)


def told(notices):
    return [(notice.kind, notice.text) for notice in notices]


def test_a_change_of_stage_is_told_and_the_stage_at_the_start_is_not():
    w = watch()
    assert w.take(status("searching"), 1) == []
    assert w.take(status("searching", 200), 2) == []
    (notice,) = w.take(status("settled", 300, 12.34), 3)
    assert told([notice]) == [
        ("stage", "the reconstruction is settled (was searching); 300 particles, 12.3 Å"),
    ]
    assert (notice.session, notice.at) == ("grid7", 3)


def test_a_restarted_worker_is_no_news_if_it_goes_on_where_it_was():
    w = watch()
    w.take(status("settled", 500, 10.0), 1)
    assert w.take(session("start"), 2) == []
    assert w.take(status("settled", 500, 10.0), 3) == []


@pytest.mark.parametrize("kind", ["checkpoint_failed", "snapshot_failed", "export_failed"])
def test_what_cannot_be_written_is_a_failure(kind):
    assert told(watch().take(event(kind, "no space"), 1)) == [("failure", "no space")]


@pytest.mark.parametrize("kind", ["symmetry_imposed", "symmetry_contradicted"])
def test_what_becomes_of_a_symmetry_is_told(kind):
    assert told(watch().take(event(kind, "C3"), 1)) == [("symmetry", "C3")]


def test_refused_batches_are_told_and_other_events_are_not():
    w = watch()
    assert told(w.take(event("batch_refused", "bad"), 1)) == [("batch_refused", "bad")]
    assert w.take(event("contrast"), 1) == w.take(event("stage"), 1) == []


def test_the_target_is_told_once_and_says_how_honest_it_is():
    w = watch(resolution_angstrom=8.0)
    assert w.take(status(resolution=None), 1) == []
    assert w.take(status(resolution=8.1), 2) == []
    ((kind, text),) = told(w.take(status(resolution=8.0), 3))
    assert kind == "resolution"
    assert "optimistic" in text
    assert w.take(status(resolution=8.1), 4) == []
    assert w.take(status(resolution=7.0), 5) == []
    other = watch(resolution_angstrom=8.0)
    other.take(status(), 1)
    ((_, text),) = told(other.take(status(resolution=7.0, fsc_kind="gold_standard"), 2))
    assert "independent" in text


def test_a_target_reached_before_we_came_is_no_news():
    w = watch(resolution_angstrom=8.0)
    assert w.take(status(resolution=7.0), 1) == []
    assert w.take(status(resolution=6.0), 2) == []


def test_without_a_target_no_resolution_is_told():
    w = watch()
    w.take(status(), 1)
    assert w.take(status(resolution=0.1), 2) == []


def test_a_stall_is_told_once_and_so_is_its_end():
    w = watch(stalled_seconds=600)
    w.take(status(seen=100), 10)
    w.take(status(seen=100), 500)  # alive, but nothing new
    assert w.tick(609) == []
    assert told(w.tick(610)) == [
        ("stalled", "no particle was folded for 10 minutes; 100 particles, no resolution yet so far")
    ]
    assert w.tick(2000) == []
    assert told(w.take(status(seen=200), 2001)) == [
        ("stalled", "particles are folded again; 200 particles, no resolution yet")
    ]
    assert w.tick(2600) == []
    assert len(w.tick(2601)) == 1


def test_a_session_that_never_begins_is_a_stall_and_one_that_is_over_is_not():
    assert len(watch(stalled_seconds=600).tick(600)) == 1
    w = watch(stalled_seconds=600)
    w.take(status(), 1)
    w.take(session("end", "drained"), 2)
    assert w.tick(10_000) == []
    w.take(session("start"), 10_001)
    assert w.tick(10_600) == []
    assert len(w.tick(10_601)) == 1


def test_the_end_is_told_with_what_was_reached():
    w = watch()
    w.take(status(seen=900, resolution=6.54, stage="refining"), 1)
    assert told(w.take(session("end", "drained"), 2)) == [
        ("session_end", "the reconstruction ended (drained) with 900 particles, 6.5 Å")
    ]
    assert told(w.take(session("end", "failed"), 3))[0][0] == "failure"


def test_quarantine_is_told_above_the_limit_and_again_when_it_doubles():
    w = watch(quarantine_above=10)
    assert w.quarantine(10, 1) == []
    assert "11 files" in w.quarantine(11, 2)[0].text
    assert w.quarantine(11, 3) == w.quarantine(21, 4) == []
    assert "22 files" in w.quarantine(22, 5)[0].text
    assert w.quarantine(3, 6) == []  # somebody saw to it
    assert len(w.quarantine(11, 7)) == 1


def test_only_what_is_wanted_is_told():
    w = watch(events=("session_end",))
    w.take(status("searching"), 1)
    assert w.take(status("settled"), 2) == []
    assert w.failure("x", 3) == w.quarantine(100, 4) == w.tick(1e6) == []
    assert len(w.take(session("end", "drained"), 5)) == 1

"""Visits while the search has not settled: in quiet moments and after the end, until it settles or is given up."""

import threading
from dataclasses import replace

import pytest
from fakes import FakeFeed, Ledger, make_batch
from sessions import Session, batches, make_config, stopped_by_a_visit
from test_revisits import VisitEngine

from streamrecon.io import read_star
from streamrecon.worker import search_visits
from streamrecon.worker.control import Control

ANNEALING = 100  # visits that the schedule takes
PARTING = 40  # visits between settling and halves of their own


class SearchingEngine(VisitEngine):
    """Settles after so many image visits, and has its halves apart a little later."""

    settles = 200

    @property
    def status(self):
        parted = self.visits >= self.settles + PARTING
        return replace(
            super().status, stage="refining" if self.visits >= self.settles else "searching",
            search_progress=min(1.0, self.visits / ANNEALING), fsc_kind="gold_standard" if parted else "common",
        )  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(search_visits, "LEAST_PARTICLES", 60)
    monkeypatch.setattr(search_visits, "LEAST_PARTICLES_IDLE", 70)
    monkeypatch.setattr(SearchingEngine, "settles", 200)


def session_of(folder, n=4, **refinement):
    config = make_config(
        folder,
        refinement={"store_megabytes": 1, **refinement},
        feed={"batch_size": 20},
        engine={"settle_images": ANNEALING},
        checkpoint={"every_seconds": 0.01},
    )
    return Session(folder, Ledger(batches(n)), config, SearchingEngine, Control(config))


def told(session, kind):
    return [text for name, text, _ in session.publisher.events if name == kind]


@pytest.fixture
def busy(monkeypatch):
    """A stream without quiet moments."""
    monkeypatch.setattr(FakeFeed, "paused", property(lambda _: False, lambda *_: None), raising=False)


def test_after_the_end_the_search_goes_on_and_the_last_sweeps_come_on_top(tmp_path, busy):
    session = session_of(tmp_path, final_sweeps=2)
    assert session.start() == "drained"
    engine = session.reconstruction.engine
    # 80 were folded; visits settle it at 200 and part the halves at 240, in mid-sweep: only whole sweeps count
    assert (engine.seen, engine.visits) == (80, 80 + 2 * 80 + 2 * 80)
    assert session.metric("revisit_sweeps") == 2
    assert "the search goes on among the kept particles, 80%" in told(session, "finishing")[0]
    assert told(session, "search_unsettled") == []
    assert "mean nothing" not in told(session, "drained")[0]
    status = session.publisher.statuses[-1]
    assert (status.particles_seen, status.image_visits) == (80, 400)
    table = read_star(tmp_path / "particles.star")
    assert len(table) == len(set(table.identities())) == 80


def test_one_that_never_settles_is_given_up_and_said_to_be_so(tmp_path, busy, monkeypatch):
    monkeypatch.setattr(SearchingEngine, "settles", 10**6)
    session = session_of(tmp_path)
    assert session.start() == "drained"
    # visits after the schedule is over: twice what it takes
    assert session.reconstruction.engine.visits == 100 + 2 * ANNEALING
    (text,) = told(session, "search_unsettled")
    assert "not settled in 300 visits to 80 particles" in text
    assert "mean nothing" in told(session, "drained")[0]
    assert session.publisher.statuses[-1].stage == "searching"


@pytest.mark.parametrize(("n", "refinement"), [(2, {}), (4, {"final_sweeps": 0})], ids=["too few", "no last sweeps"])
def test_where_there_are_no_visits_the_search_ends_with_the_stream(tmp_path, busy, n, refinement):
    session = session_of(tmp_path, n, **refinement)
    assert session.start() == "drained"
    assert session.reconstruction.engine.visits == 20 * n
    assert "mean nothing" in told(session, "drained")[0]


def test_a_stop_ends_it_at_once_and_the_next_start_goes_on(tmp_path, busy, monkeypatch):
    visit = SearchingEngine.revisit
    stop = stopped_by_a_visit(monkeypatch, SearchingEngine)
    session = session_of(tmp_path, final_sweeps=1)
    assert session.start(stop) == "drained"
    assert session.reconstruction.engine.visits == 80 + 20
    monkeypatch.setattr(SearchingEngine, "revisit", visit)
    session.start()
    assert session.reconstruction.engine.seen == 80
    assert session.reconstruction.engine.status.fsc_kind == "gold_standard"


def test_in_quiet_moments_too_and_new_particles_are_folded_first(tmp_path, monkeypatch):
    session = session_of(tmp_path)
    stop, order = threading.Event(), []
    fold, visit = SearchingEngine.fold, SearchingEngine.revisit

    def folding(self, batch):
        order.append("fold")
        return fold(self, batch)

    def visiting(self, kept, search):
        searching = self.status.stage == "searching"
        assert search.any() != searching  # not the worst first: the engine searches for all of them
        order.append("visit" if searching else "refine")
        if order.count("visit") == 2 and len(session.ledger.batches) == 4:
            session.ledger.batches |= {5: make_batch(5), 6: make_batch(6)}
        if order.count("refine") == 3:
            stop.set()
        return visit(self, kept, search)

    monkeypatch.setattr(SearchingEngine, "fold", folding)
    monkeypatch.setattr(SearchingEngine, "revisit", visiting)
    monkeypatch.setattr(FakeFeed, "drained", property(lambda _: False))
    session.start(stop)
    assert order[:8] == ["fold"] * 4 + ["visit"] * 2 + ["fold"] * 2
    assert session.reconstruction.engine.seen == 120
    assert "refine" in order
    kinds = [kind for kind, _, _ in session.publisher.events]
    assert "finishing" not in kinds


def test_in_quiet_moments_a_first_few_particles_decide_nothing(tmp_path, monkeypatch):
    session = session_of(tmp_path, n=3)  # 60: enough after the end, not before it
    stop, turns = threading.Event(), []
    poll = FakeFeed.poll

    def polled(self, seconds):
        turns.append(1)
        if len(turns) > 20:
            stop.set()
        return poll(self, seconds)

    monkeypatch.setattr(FakeFeed, "poll", polled)
    monkeypatch.setattr(FakeFeed, "drained", property(lambda _: False))
    session.start(stop)
    assert session.reconstruction.engine.visits == 60


def test_new_particles_end_the_rest_of_a_search_that_was_given_up(tmp_path):
    status = replace(SearchingEngine(None, 16, 3.0).status, search_progress=1.0, image_visits=500)
    search = search_visits.SearchVisits(ANNEALING)
    assert search.pays(status, 80, finishing=True)
    search.note(replace(status, search_progress=0.5), 10 * ANNEALING)  # the schedule may take what it takes
    assert search.pays(status, 80, finishing=True)
    search.note(status, 2 * ANNEALING)
    assert not search.pays(status, 80, finishing=True)
    assert "500 visits" in search.failure(status)
    search.begin_anew()
    assert search.pays(status, 80, finishing=True)

"""After the stream has ended: a stated number of sweeps, told and counted, and broken off at once when asked."""

from dataclasses import replace

import pytest
from fakes import FakeFeed, Ledger
from sessions import Session, batches, make_config, stopped_by_a_visit
from test_revisits import VisitEngine

from streamrecon.io import read_star
from streamrecon.worker.control import Control


@pytest.fixture(autouse=True)
def never_idle(monkeypatch):
    """A stream without quiet moments: no sweep is made before it ends."""
    monkeypatch.setattr(FakeFeed, "paused", property(lambda _: False, lambda *_: None), raising=False)


def session_of(folder, **refinement):
    config = make_config(
        folder,
        refinement={"store_megabytes": 1, **refinement},
        feed={"batch_size": 7},
        checkpoint={"every_seconds": 0.01},
    )
    return Session(folder, Ledger(batches(4)), config, VisitEngine, Control(config))


@pytest.mark.parametrize(("sweeps", "most"), [(0, 12), (2, 12), (9, 1)])
def test_so_many_sweeps_as_are_stated(tmp_path, sweeps, most):
    session = session_of(tmp_path, final_sweeps=sweeps, max_sweeps=most)
    assert session.start() == "drained"
    made = min(sweeps, most)
    engine = session.reconstruction.engine
    assert (engine.seen, engine.visits) == (80, 80 * (1 + made))
    assert session.metric("revisit_sweeps") == made
    finishing = [text for kind, text, _ in session.publisher.events if kind == "finishing"]
    assert len(finishing) == (1 if made else 0)
    if made:
        assert session.metric("finishing") == 1
        assert f"0 of at most {made} made, 80 particles left" in finishing[0]
        assert "last sweeps" in session.control.look()[0]
    kinds = [kind for kind, _, _ in session.publisher.events]
    assert kinds[-1] == "drained"
    assert len(read_star(tmp_path / "particles.star")) == 80


def test_they_end_early_where_nothing_is_gained(tmp_path, monkeypatch):
    visit = VisitEngine.revisit

    def alike(self, kept, search):
        result = visit(self, kept, search)
        return replace(result, log_evidence=0 * result.log_evidence)

    monkeypatch.setattr(VisitEngine, "revisit", alike)
    session = session_of(tmp_path, final_sweeps=10)
    session.start()
    # the engine's resolution never changes: two sweeps find that out, after one to compare with
    assert session.reconstruction.engine.visits == 80 * 4


def test_a_stop_ends_them_at_once_and_leaves_everything_durable(tmp_path, monkeypatch):
    visit = VisitEngine.revisit
    stop = stopped_by_a_visit(monkeypatch, VisitEngine)
    session = session_of(tmp_path, final_sweeps=5)
    assert session.start(stop) == "drained"
    assert session.reconstruction.engine.visits == 80 + 7
    monkeypatch.setattr(VisitEngine, "revisit", visit)
    assert session.ledger.acked == set(range(1, 5))
    session.start()  # nothing is left to fold: the sweeps go on
    assert session.reconstruction.engine.seen == 80

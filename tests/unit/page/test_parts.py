"""The page's parts without a socket: history, words, sections, view, licences."""

import asyncio
import itertools
import json

import pytest

from streamrecon.page import libraries
from streamrecon.page.history import History
from streamrecon.page.hub import Hub
from streamrecon.page.view import SessionView
from streamrecon.page.words import Facts, state_of, symmetry_words
from streamrecon.transport import drafts
from tests.scripted_session import ledger_at, snapshot_at, status_at


def test_a_history_stays_within_its_limit_and_keeps_both_ends():
    history = History(("n", "value"), limit=50)
    thinned = 0
    for n in range(1, 5001):
        thinned += history.add((float(n), n * 2.0))
    kept = [row[0] for row in history.rows]
    assert len(kept) <= 50
    assert thinned > 0
    assert (kept[0], kept[-1]) == (1.0, 5000.0)
    assert kept == sorted(kept)
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert max(gaps) <= 4 * 5000 / 50  # evenly, not only the newest
    assert all(value == 2 * n for n, value in history.rows)


def test_the_same_count_again_replaces_the_row():
    history = History(("n", "value"))
    history.add((100.0, 1.0))
    history.add((100.0, 2.0))
    assert history.rows == [(100.0, 2.0)]


def status(**fields):
    return {"particles_seen": 1200, "stage": "searching", "fsc_kind": "common", "resolution_angstrom": None, **fields}


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        (Facts(), "starting", "Waiting for the worker"),
        (Facts(silence="No key."), "starting", "No key."),
        (Facts(heard=True, ever_heard=True), "waiting", "Nothing has appeared"),
        (Facts(heard=True, ledger=ledger_at(0, 0) | {"stacks": {"settling": 2}}), "waiting", "2 stacks have been seen"),
        (Facts(heard=True, ledger=ledger_at(700, 0)), "waiting", "700 particles wait"),
        (Facts(heard=True, status=status()), "searching", "1,200 particles so far"),
        (Facts(heard=True, status=status(stage="settled", resolution_angstrom=14.24)), "settled", "at 14.2 Å"),
        (Facts(heard=True, status=status(stage="refining")), "refining", "from the first map"),
        (Facts(heard=True, status=status(stage="refining", fsc_kind="gold_standard")), "refining", "its own map"),
        (Facts(heard=True, status=status(stage="dreaming")), "settled", "1,200 particles"),
        (Facts(ever_heard=True, status=status()), "lost", "last that was heard"),
        (Facts(ever_heard=True, end_reason="drained", status=status()), "finished", "All 1,200 particles"),
        (Facts(ever_heard=True, end_reason="stopped", status=status()), "stopped", "goes on from here"),
        (Facts(ever_heard=True, end_reason="failed", status=status()), "failed", "It said: failed"),
    ],
)
def test_states_in_words(facts, kind, words):
    state = state_of(facts)
    assert state.kind == kind
    assert words in state.text


SEEN = {"symmetry": {"group": "C3", "correlation": 0.9, "asked": False, "note": "look at the map"}}


@pytest.mark.parametrize(
    ("status", "assessment", "words"),
    [
        ({}, {}, ("", "", False)),
        (status(), {}, ("no symmetry imposed", "", False)),
        (status(symmetry="D2", symmetry_reason="its copies hold"), SEEN, ("D2 imposed", "its copies hold", False)),
        (
            status(symmetry="C3", symmetry_reason="why", symmetry_contradicted=True),
            SEEN,
            ("C3 imposed, contradicted by the images", "why", True),
        ),
        (status(symmetry="C1"), SEEN, ("C3 seen, not imposed", "look at the map", False)),
        (status(symmetry="C1"), {"symmetry": None}, ("no symmetry imposed", "", False)),
        (status(symmetry_taken_back="C3", symmetry_reason="it lost"), SEEN, ("C3 taken back", "it lost", True)),
        # found again, and better this time
        (status(symmetry="D3", symmetry_taken_back="C3"), SEEN, ("D3 imposed", "", False)),
    ],
)
def test_the_symmetry_in_words(status, assessment, words):
    found = symmetry_words(status, assessment)
    assert (found.text, found.reason, found.alert) == words


def sections(chunks):
    """Return (name, content) of every event in some pieces of a stream."""
    found = []
    for block in b"".join(chunks).decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_a_stream_begins_with_everything_and_then_has_only_what_changed():
    async def watch():
        hub = Hub()
        hub.put("a", {"x": 1})
        hub.put("h", [1], quiet=True)
        stream = hub.stream()
        first = [await anext(stream), await anext(stream)]
        assert hub.watchers == 1
        hub.put("a", {"x": 1})  # the same: not sent
        hub.put("h", [1, 2], quiet=True)  # newcomers only
        for value in range(5):
            hub.put("b", value)  # only the last is sent
        second = [await anext(stream)]
        hub.put("c", "last words")
        hub.close()
        rest = [piece async for piece in stream]
        late = [piece async for piece in hub.stream()]
        assert hub.watchers == 0
        return sections(first), sections(second), sections(rest), sections(late)

    first, second, rest, late = asyncio.run(watch())
    assert first == [("a", {"x": 1}), ("h", [1])]
    assert second == [("b", 4)]
    assert rest == [("c", "last words")]
    assert dict(late)["h"] == [1, 2]


@pytest.fixture
def view():
    return SessionView(Hub(), "grid 7")


def send(view, *made, session="s1", sequence=1):
    for draft in made:
        view.take(draft.build(session, sequence))


def test_a_view_takes_in_what_an_engine_sends(view):
    assert view.hub.get("state")["kind"] == "starting"
    send(view, drafts.session_draft("start", "grid 8", "1.0", "", 0.0))
    assert view.hub.get("session")["name"] == "grid 8"
    send(view, drafts.status_draft(status_at(3000), 5.0), *drafts.snapshot_drafts(snapshot_at(3000), 6.0))
    assert view.hub.get("state")["kind"] == "settled"
    assert view.hub.get("symmetry")["text"] == "no symmetry imposed"
    assert view.hub.get("history")["rows"][-1][0] == 3000
    assert len(view.hub.get("fsc")["fsc"]) == 33
    maps = view.hub.get("maps")["maps"]
    assert set(maps) == {"full", "half_a", "half_b"}
    volume, voxel = view.volume("half_a")
    assert (volume == snapshot_at(3000).half_a).all()
    assert voxel == pytest.approx(3.2)
    send(view, drafts.session_draft("end", "grid 8", "1.0", "drained", 0.0))
    assert view.hub.get("state")["kind"] == "finished"
    view.worker_silent("")
    assert view.hub.get("state")["kind"] == "finished"


def test_a_worker_that_comes_back_goes_on_where_it_was(view):
    send(view, *(drafts.status_draft(status_at(n), 0.0) for n in (100, 200, 300)))
    view.worker_silent("")
    assert view.hub.get("state")["kind"] == "lost"
    send(view, drafts.status_draft(status_at(400), 0.0), session="s2")
    assert view.hub.get("state")["kind"] == "searching"
    assert [row[0] for row in view.hub.get("history")["rows"]] == [100, 200, 300, 400]
    # one taken up from an earlier checkpoint counts anew from there
    send(view, drafts.status_draft(status_at(200), 0.0), session="s3")
    assert [row[0] for row in view.hub.get("history")["rows"]] == [200]


def test_long_lists_are_cut_and_their_lengths_stay(view):
    found = ledger_at(1000, 900)
    entry = {"path": "p", "identity": "", "kind": "k", "reason": "r", "at": 0.0, "dismissed_at": None}
    found["quarantine"] |= {"open": 5000, "entries": [entry] * 5000 + [entry | {"dismissed_at": 1.0}]}
    view.take_ledger(found)
    shown = view.hub.get("ledger")
    assert len(shown["quarantine"]) == 200
    assert shown["quarantine_open"] == 5000


def test_the_log_keeps_the_last_of_its_events(view):
    send(view, *(drafts.event_draft("note", str(n), {}, 0.0) for n in range(300)))
    shown = view.hub.get("log")["events"]
    assert [e["text"] for e in shown] == [str(n) for n in range(100, 300)]


def test_libraries_come_from_their_packages_with_licences():
    assert libraries.has_charts()
    assert libraries.has_viewer()
    assert b"uPlot" in libraries.library_file("uplot.js").body[:200]
    assert libraries.library_file("../secret") is None
    text = libraries.licences()
    for words in ("Leon Sorokin", "youplot 1.0.0", "molstar-cli 0.0.1", "Permission is hereby granted"):
        assert words in text

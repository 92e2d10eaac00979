"""Each change of stage, symmetry and random starts is told once."""

from dataclasses import replace

from fakes import SumEngine

from streamrecon.worker.news import StatusNews


def test_each_change_is_told_once():
    told = []
    news = StatusNews(lambda kind, text, **fields: told.append((kind, text, fields)))
    first = SumEngine(None, 16, 3.0).status
    for status in (
        first,
        first,
        replace(first, symmetry="D2", symmetry_reason="its copies hold"),
        replace(first, symmetry="D2", symmetry_reason="other words"),
        replace(first, symmetry="C1", symmetry_reason="contradicted"),
        replace(first, symmetry="C1", starts=2, challenges=1, challenge_reason="a fresh one runs", start_agreement=0.4),
        replace(first, symmetry="C1", starts=1, challenges=1, challenge_reason="it took its place"),
    ):
        news.take(status)
    assert [kind for kind, _, _ in told] == ["stage", "symmetry_imposed", "symmetry_imposed", "starts", "starts"]
    assert "D2 is imposed" in told[1][1]
    assert "its copies hold" in told[1][1]
    assert "D2 is no longer imposed" in told[2][1]
    assert told[3][2] == {"starts": 2, "challenges": 1, "agreement": 0.4}
    assert "agreement" not in told[4][2]

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


def test_images_that_contradict_what_was_asked_for_are_told_once_and_when_it_is_over():
    told = []
    news = StatusNews(lambda kind, text, **fields: told.append((kind, text, fields)))
    imposed = replace(SumEngine(None, 16, 3.0).status, symmetry="C3", symmetry_reason="asked for")
    said = replace(imposed, symmetry_contradicted=True, symmetry_gain=4.321, symmetry_reason="gains 4.3 nats")
    for status in (imposed, said, replace(said, symmetry_gain=5.0), replace(imposed, symmetry_gain=-1.0)):
        news.take(status)
    assert [kind for kind, _, _ in told] == [
        "stage",
        "symmetry_imposed",
        "symmetry_contradicted",
        "symmetry_contradicted",
    ]
    assert told[2][1] == "new images contradict C3, which was asked for and stays imposed (gains 4.3 nats)"
    assert told[2][2] == {"group": "C3", "contradicted": True, "gain_nats": 4.32}
    assert "no longer" in told[3][1]
    assert told[3][2]["contradicted"] is False

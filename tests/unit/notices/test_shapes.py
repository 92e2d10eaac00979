"""The shapes against what the chats document, and what a hostile text can do in them."""

import email
import email.policy
import json

import pytest

from streamrecon.notices import shapes
from streamrecon.notices.notice import Notice

HOSTILE = "<!channel> *x* [a](http://evil) & line\r\nBcc: all@example.org\x00\x1b[31m"


def notice(text="8 Å are reached"):
    return Notice("resolution", "grid7", text, 1_700_000_000.0)


def test_slack():
    assert shapes.slack(notice()) == {"text": "grid7: 8 Å are reached"}
    text = shapes.slack(notice(HOSTILE))["text"]
    assert "<" not in text
    assert "&lt;!channel&gt;" in text
    assert "&amp;" in text


def test_mattermost():
    assert shapes.mattermost(notice("done.")) == {"username": "streamrecon", "text": "**grid7**: done."}
    text = shapes.mattermost(notice(HOSTILE + " @all"))["text"]
    assert "\\[a\\]\\(http" in text
    assert "\\@all" in text


def test_teams():
    shape = shapes.teams(notice())
    assert shape["type"] == "message"
    (attachment,) = shape["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert [block["text"] for block in card["body"]] == [
        "grid7",
        "8 Å are reached",
        "resolution, 2023-11-14T22:13:20+00:00",
    ]


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_every_shape_is_json_and_bounded(shape):
    assert len(json.dumps(shapes.SHAPES[shape](notice("*" * 100_000)))) < 20_000


def test_a_mail_says_what_it_is_and_no_text_adds_a_header():
    made = shapes.mail(notice(HOSTILE), "daemon@example.org", ["a@example.org", "b@example.org"])
    read = email.message_from_bytes(made.as_bytes(), policy=email.policy.default)
    assert read["To"] == "a@example.org, b@example.org"
    assert read["From"] == "daemon@example.org"
    assert read["Bcc"] is None
    assert read["Auto-Submitted"] == "auto-generated"
    assert read["Date"].datetime.timestamp() == 1_700_000_000
    assert read["Subject"].startswith("[streamrecon] grid7: <!channel>")
    assert "session: grid7\nkind: resolution\n" in read.get_content()


def test_a_long_text_is_cut_where_it_must_be():
    long = notice("words " * 1000)
    assert len(long.title) == 150
    assert len(long.body) == 1000
    assert long.body.endswith("…")

"""How a notice looks: the JSON that each chat's webhook takes, and a mail. Pure functions.

Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (``&``, ``<`` and ``>`` are markup).
Mattermost: https://developers.mattermost.com/integrate/webhooks/incoming (Markdown).
Teams: the "Workflows" webhook, which takes a message with an Adaptive Card.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

from streamrecon.notices.notice import Notice


def slack(notice: Notice) -> dict[str, object]:
    """Return Slack's shape."""
    text = f"{notice.session}: {notice.body}"
    return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def mattermost(notice: Notice) -> dict[str, object]:
    """Return Mattermost's shape; what could be Markdown or a mention is escaped."""
    session, body = (_without_markdown(text) for text in (notice.session, notice.body))
    return {"username": "streamrecon", "text": f"**{session}**: {body}"}


def teams(notice: Notice) -> dict[str, object]:
    """Return the shape of a Teams workflow."""
    blocks = [
        {"type": "TextBlock", "text": _without_markdown(notice.session), "weight": "Bolder", "wrap": True},
        {"type": "TextBlock", "text": _without_markdown(notice.body), "wrap": True},
        {"type": "TextBlock", "text": f"{notice.kind}, {notice.time}", "isSubtle": True, "wrap": True},
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def plain(notice: Notice) -> dict[str, object]:
    """Return our own shape, for programs."""
    return {
        "kind": notice.kind,
        "session": notice.session,
        "text": notice.body,
        "time": notice.time,
        "host": socket.gethostname(),
    }


SHAPES: Mapping[str, Callable[[Notice], dict[str, object]]] = {
    "slack": slack,
    "mattermost": mattermost,
    "teams": teams,
    "json": plain,
}


def mail(notice: Notice, sender: str, receivers: Sequence[str]) -> EmailMessage:
    """Return a mail; replies to it, as to any program's, are not expected (RFC 3834)."""
    message = EmailMessage()
    message["Subject"] = f"[streamrecon] {notice.title}"
    message["From"] = sender
    message["To"] = ", ".join(receivers)
    message["Date"] = format_datetime(datetime.fromtimestamp(notice.at, UTC))
    message["Message-ID"] = make_msgid(domain=sender.rsplit("@", 1)[-1])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        f"{notice.body}\n\nsession: {notice.session}\nkind: {notice.kind}\ntime: {notice.time}\n"
        f"host: {socket.gethostname()}\n"
    )
    return message


def _without_markdown(text: str) -> str:
    return "".join("\\" + c if c in "\\`*_{}[]()#|~<>!@" else c for c in text)

"""Telling people, by chat and by mail, of what happens in a session; see [notify] in config.toml."""

from streamrecon.notices.notice import Notice
from streamrecon.notices.service import NoticeService

__all__ = ["Notice", "NoticeService"]

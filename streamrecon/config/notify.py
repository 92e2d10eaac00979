"""[notify]: whom to tell of what; a model of its own because it has rules of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EventKind = Literal[
    "stage", "symmetry", "batch_refused", "quarantine", "resolution", "stalled", "session_end", "failure"
]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NotifyConfig(BaseModel):
    """[notify]: messages to people. Secrets stand in files or in the environment, never here."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    events: tuple[EventKind, ...] = (
        "stage",
        "symmetry",
        "batch_refused",
        "quarantine",
        "resolution",
        "stalled",
        "session_end",
        "failure",
    )
    webhook: Literal["none", "slack", "teams", "mattermost", "json"] = "none"
    webhook_url_file: str = ""
    email_to: tuple[Annotated[str, Field(pattern=r"^[^@\s,;<>]+@[^@\s,;<>]+$")], ...] = ()
    email_from: Annotated[str, Field(pattern=r"^([^@\s,;<>]+@[^@\s,;<>]+)?$")] = ""
    smtp_host: str = ""
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str = ""
    smtp_password_file: str = ""
    quarantine_above: Annotated[int, Field(ge=0)] = 10
    resolution_angstrom: Annotated[float, Field(ge=0)] = 0.0
    stalled_seconds: Annotated[float, Field(gt=0)] = 1800.0
    quiet_seconds: Annotated[float, Field(ge=0)] = 300.0

    @property
    def wanted(self) -> bool:
        """Return True if there is a way to tell anybody."""
        return self.webhook != "none" or bool(self.email_to)

    @model_validator(mode="after")
    def _mail_can_be_sent(self) -> NotifyConfig:
        if self.email_to and not (self.smtp_host and self.email_from):
            raise ValueError("email_to needs smtp_host and email_from: the server that takes the mail, and its sender")
        if self.smtp_user and self.smtp_security == "none" and self.smtp_host not in LOOPBACK:
            raise ValueError(
                "smtp_user would send the password unencrypted; set smtp_security to 'starttls' or 'tls', or leave "
                "smtp_user empty"
            )
        return self

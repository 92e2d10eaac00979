"""Ways to people: a webhook over HTTPS, and mail over SMTP. One attempt a call; the courier tries again."""

from __future__ import annotations

import logging
import os
import smtplib
import ssl
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import httpx

from streamrecon.config.notify import LOOPBACK, NotifyConfig
from streamrecon.errors import ConfigError, DeliveryError
from streamrecon.notices.notice import Notice
from streamrecon.notices.shapes import SHAPES, mail

TIMEOUT_SECONDS = 10.0
_LONGEST_SECRET = 4096
_LATER = (408, 425, 429)  # Request Timeout, Too Early, Too Many Requests
# at info it logs every URL that it asks, and a webhook's is a secret
logging.getLogger("httpx").setLevel(logging.WARNING)


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str:
        """Return the name under which deliveries are counted."""

    def deliver(self, notice: Notice) -> None:
        """Try once to deliver a notice.

        Raises
        ------
        DeliveryError
            It has not arrived.
        """


class Webhook:
    """Posts to the webhook of a chat.

    Parameters
    ----------
    url : str
        A secret: it appears in no message and no log.
    shape : str
        A key of `streamrecon.notices.shapes.SHAPES`.
    timeout_seconds : float
        For each of connecting, writing and reading.

    Raises
    ------
    ConfigError
        The URL is not one, or would carry the notices over the network unencrypted.
    """

    name = "webhook"

    def __init__(self, url: str, shape: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        if not (
            parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))
        ):
            raise ConfigError(
                "notify.webhook: expected a URL that begins with https:// (http:// only to this host), found another "
                f"({len(url)} characters, not shown: it is a secret); copy it anew from the chat's settings"
            )
        self._url = url
        self._host = parts.hostname
        self._shape = SHAPES[shape]
        self._timeout = httpx.Timeout(timeout_seconds)

    def deliver(self, notice: Notice) -> None:
        """Post the notice; see `Channel.deliver`."""
        try:
            # not a client kept open: notices are rare, and an idle connection would be closed by the other side
            with (
                httpx.Client(timeout=self._timeout, follow_redirects=False) as client,
                client.stream("POST", self._url, json=self._shape(notice)) as response,
            ):
                status, wait = response.status_code, response.headers.get("Retry-After", "")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # the message of an error can hold the URL
            raise DeliveryError(f"{self._host}: {type(error).__name__}", again=True) from None
        if 200 <= status < 300:
            return
        raise DeliveryError(
            f"{self._host}: answered {status}",
            again=status >= 500 or status in _LATER,
            after_seconds=float(wait) if wait.isdecimal() else 0.0,
        )


class Email:
    """Sends mail through a server.

    Parameters
    ----------
    host : str
    port : int
    security : {"starttls", "tls", "none"}
        With the first two the server's certificate is checked against the system's (or SSL_CERT_FILE).
    login : (str, str) or None
        User and password.
    sender : str
    receivers : sequence of str
    timeout_seconds : float
    """

    name = "email"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        security: Literal["starttls", "tls", "none"],
        login: tuple[str, str] | None,
        sender: str,
        receivers: Sequence[str],
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._address = (host, port)
        self._security = security
        self._login = login
        self._sender = sender
        self._receivers = tuple(receivers)
        self._timeout_seconds = timeout_seconds

    def deliver(self, notice: Notice) -> None:
        """Send the notice to all receivers; see `Channel.deliver`."""
        where = f"{self._address[0]}:{self._address[1]}"
        try:
            with self._connected() as server:
                refused = server.send_message(mail(notice, self._sender, self._receivers))
        except smtplib.SMTPResponseException as error:
            # 4xx is for now, 5xx for good (RFC 5321 4.2.1)
            raise DeliveryError(f"{where}: {error}", again=400 <= error.smtp_code < 500) from error
        except smtplib.SMTPRecipientsRefused as error:
            again = all(400 <= code < 500 for code, _ in error.recipients.values())
            raise DeliveryError(f"{where}: takes mail for none of the receivers", again=again) from error
        except (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError) as error:
            raise DeliveryError(f"{where}: {error}", again=False) from error
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryError(f"{where}: {error or type(error).__name__}", again=True) from error
        if refused:
            raise DeliveryError(f"{where}: takes no mail for {', '.join(sorted(refused))}", again=False)

    def _connected(self) -> smtplib.SMTP:
        host, port = self._address
        context = ssl.create_default_context()
        if self._security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=self._timeout_seconds, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=self._timeout_seconds)
        try:
            if self._security == "starttls":
                server.starttls(context=context)
            if self._login is not None:
                server.login(*self._login)
        except BaseException:
            with suppress(OSError, smtplib.SMTPException):
                server.close()
            raise
        return server


def channels_of(config: NotifyConfig, environment: Mapping[str, str]) -> list[Channel]:
    """Return every way that the configuration names.

    Raises
    ------
    ConfigError
        A secret is missing, or others can read it.
    """
    channels: list[Channel] = []
    if config.webhook != "none":
        url = secret("notify.webhook_url_file", config.webhook_url_file, "STREAMRECON_WEBHOOK_URL", environment)
        channels.append(Webhook(url, config.webhook))
    if config.email_to:
        login = None
        if config.smtp_user:
            variable = "STREAMRECON_SMTP_PASSWORD"
            password = secret("notify.smtp_password_file", config.smtp_password_file, variable, environment)
            login = (config.smtp_user, password)
        channels.append(
            Email(
                config.smtp_host,
                config.smtp_port,
                security=config.smtp_security,
                login=login,
                sender=config.email_from,
                receivers=config.email_to,
            )
        )
    return channels


def secret(key: str, path: str, variable: str, environment: Mapping[str, str]) -> str:
    """Return a secret from the file, if one is named, else from the environment.

    Raises
    ------
    ConfigError
        There is none, it cannot be read, or group or others have any right to its file.
    """
    if not path:
        found = environment.get(variable, "").strip()
        if not found:
            raise ConfigError(
                f"{key}: expected a file, or {variable} in the environment, found neither; set one of them"
            )
        return found
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_LONGEST_SECRET + 1)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: cannot be read ({error.strerror}); give its path, or its right") from error
    if mode & 0o077:
        raise ConfigError(
            f"{key}: {path}: expected a file that only its owner can read (mode 0600), found mode {mode:04o}; run "
            f"chmod 600 {path}, and get a new secret if somebody else may have read it"
        )
    text = content.decode("utf-8", "replace").strip()
    if not text or len(content) > _LONGEST_SECRET or "\n" in text:
        raise ConfigError(
            f"{key}: {path}: expected one line of at most {_LONGEST_SECRET} bytes, found {len(text.splitlines())}"
            " lines; put the secret there and nothing else"
        )
    return text

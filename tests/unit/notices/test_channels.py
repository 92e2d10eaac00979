"""Webhook and mail against servers on the loopback."""

import email
import email.policy
import logging
import socket

import pytest

from streamrecon.config.notify import NotifyConfig
from streamrecon.errors import ConfigError, DeliveryError
from streamrecon.monitor.ports import unused_ports
from streamrecon.notices.channels import Email, Webhook, channels_of, secret
from streamrecon.notices.notice import Notice
from tests.unit.notices.servers import SECRET_PATH, Chat, Mailbox, mail_server, make_certificate, needs_openssl

NOTICE = Notice("session_end", "grid7", "the reconstruction ended", 1_700_000_000.0)
PEOPLE = ("a@example.org", "b@example.org")


def mailer(port, *, security="none", login=None, receivers=PEOPLE):
    return Email("127.0.0.1", port, security=security, login=login, sender="daemon@example.org", receivers=receivers)


def test_a_webhook_gets_json():
    with Chat() as chat:
        Webhook(chat.url, "slack").deliver(NOTICE)
    assert chat.posts == [(SECRET_PATH, "application/json", {"text": "grid7: the reconstruction ended"})]


@pytest.mark.parametrize(
    ("status", "again"), [(500, True), (503, True), (429, True), (408, True), (400, False), (404, False), (302, False)]
)
def test_what_a_webhook_answers_decides_whether_to_try_again(status, again):
    with Chat([status], {"Retry-After": "7", "Location": "http://127.0.0.1:1/"}) as chat:
        with pytest.raises(DeliveryError, match=f"answered {status}") as caught:
            Webhook(chat.url, "slack").deliver(NOTICE)
        assert chat.times == 1
    assert caught.value.again is again
    assert caught.value.after_seconds == 7


def test_the_url_is_a_secret(caplog):
    caplog.set_level(logging.INFO)
    with Chat([500]) as chat:
        hook = Webhook(chat.url, "slack")
        with pytest.raises(DeliveryError) as refused:
            hook.deliver(NOTICE)
        hook.deliver(NOTICE)
    with pytest.raises(DeliveryError) as unreachable:  # nobody listens any more
        hook.deliver(NOTICE)
    assert unreachable.value.again
    assert unreachable.value.__cause__ is None
    with pytest.raises(ConfigError) as unfit:
        Webhook("http://chat.example.org/hooks/SECRET", "slack")
    said = " ".join([*(str(e.value) for e in (refused, unreachable, unfit)), caplog.text, repr(hook)])
    assert "SECRET" not in said


def test_a_webhook_that_says_nothing_is_not_waited_for():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(DeliveryError) as caught:
            Webhook(url, "slack", timeout_seconds=0.2).deliver(NOTICE)
    assert caught.value.again


def test_mail_arrives():
    box = Mailbox()
    with mail_server(box) as port:
        mailer(port).deliver(NOTICE)
    ((encrypted, sender, receivers, content),) = box.mails
    assert (encrypted, sender, receivers) == (False, "daemon@example.org", list(PEOPLE))
    read = email.message_from_bytes(content, policy=email.policy.default)
    assert read["Subject"] == "[streamrecon] grid7: the reconstruction ended"


@needs_openssl
def test_mail_with_starttls_and_a_password(tmp_path, monkeypatch):
    box = Mailbox()
    certificate = make_certificate(tmp_path)
    with mail_server(box, certificate, authenticator=box.authenticate, auth_required=True) as port:
        with pytest.raises(DeliveryError, match="certificate") as unknown:
            mailer(port, security="starttls", login=("daemon", "right")).deliver(NOTICE)
        assert not unknown.value.again
        assert box.logins == []  # no password for a server that nobody knows
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        with pytest.raises(DeliveryError, match="535") as wrong:
            mailer(port, security="starttls", login=("daemon", "wrong")).deliver(NOTICE)
        assert not wrong.value.again
        assert box.mails == []
        mailer(port, security="starttls", login=("daemon", "right")).deliver(NOTICE)
    assert box.logins[-1] == (b"daemon", b"right")
    assert box.mails[0][0]


def test_a_server_without_starttls_gets_no_mail():
    box = Mailbox()
    with mail_server(box) as port, pytest.raises(DeliveryError, match="STARTTLS") as caught:
        mailer(port, security="starttls").deliver(NOTICE)
    assert not caught.value.again
    assert box.mails == []


def test_who_is_refused_is_named():
    box = Mailbox(refuse=("b@example.org",))
    with mail_server(box) as port:
        with pytest.raises(DeliveryError, match=r"b@example\.org") as some:
            mailer(port).deliver(NOTICE)
        assert box.mails[0][2] == ["a@example.org"]
        with pytest.raises(DeliveryError, match="none of the receivers") as none:
            mailer(port, receivers=("b@example.org",)).deliver(NOTICE)
    assert not some.value.again
    assert not none.value.again


def test_a_mail_server_that_is_away_is_tried_again():
    (port,) = unused_ports(1)
    with pytest.raises(DeliveryError) as caught:
        mailer(port).deliver(NOTICE)
    assert caught.value.again


def test_a_secret_comes_from_its_file_or_from_the_environment(tmp_path):
    path = tmp_path / "secret"
    path.write_text("abc\n")
    path.chmod(0o600)
    assert secret("key", str(path), "VARIABLE", {}) == "abc"
    assert secret("key", "", "VARIABLE", {"VARIABLE": "xyz"}) == "xyz"
    with pytest.raises(ConfigError, match="found neither"):
        secret("key", "", "VARIABLE", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        secret("key", str(tmp_path / "none"), "VARIABLE", {"VARIABLE": "xyz"})


@pytest.mark.parametrize(
    ("content", "mode", "match"), [("abc", 0o640, "chmod 600"), ("", 0o600, "0 lines"), ("a\nb", 0o600, "2 lines")]
)
def test_a_secret_that_is_none_is_refused(tmp_path, content, mode, match):
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=match) as caught:
        secret("key", str(path), "VARIABLE", {})
    assert "abc" not in str(caught.value)


def test_channels_of_a_configuration():
    assert channels_of(NotifyConfig(), {}) == []
    config = NotifyConfig(
        webhook="teams", email_to=PEOPLE, email_from="d@example.org", smtp_host="mail.example.org", smtp_user="d"
    )
    secrets = {"STREAMRECON_WEBHOOK_URL": "https://example.org/x", "STREAMRECON_SMTP_PASSWORD": "y"}
    assert [channel.name for channel in channels_of(config, secrets)] == ["webhook", "email"]
    with pytest.raises(ConfigError, match="smtp_password_file"):
        channels_of(config, {"STREAMRECON_WEBHOOK_URL": "https://example.org/x"})

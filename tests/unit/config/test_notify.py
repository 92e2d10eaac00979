"""[notify]: what cannot work is refused before the session starts."""

from pathlib import Path

import pytest

from streamrecon.config import load_config
from streamrecon.errors import ConfigError

MAIL = 'email_to = ["a@example.org"]\nemail_from = "d@example.org"\nsmtp_host = "mail.example.org"\n'


def load(folder, text):
    path = folder / "config.toml"
    path.write_text(f"[notify]\n{text}")
    return load_config(path).notify


def test_off_by_default(tmp_path):
    assert not load(tmp_path, "").wanted


def test_secrets_are_looked_for_beside_the_file(tmp_path):
    notify = load(tmp_path, 'webhook = "slack"\nwebhook_url_file = "hook"\nsmtp_password_file = "/run/secret"\n')
    assert notify.wanted
    assert Path(notify.webhook_url_file) == tmp_path / "hook"
    assert notify.smtp_password_file == "/run/secret"
    assert load(tmp_path, MAIL).smtp_password_file == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('email_to = ["a@example.org"]\n', "smtp_host"),
        ('email_to = ["a@example.org\\nBcc: b@example.org"]\n', "email_to"),
        ('events = ["evrything"]\n', "events"),
        ('webhook = "irc"\n', "webhook"),
        (MAIL + 'smtp_security = "none"\nsmtp_user = "d"\n', "unencrypted"),
        ('webhook_url = "https://example.org"\n', "webhook_url"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, text, names):
    with pytest.raises(ConfigError, match=names):
        load(tmp_path, text)

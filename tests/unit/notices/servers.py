"""A chat's webhook and a mail server on the loopback, which remember what they were sent."""

import json
import shutil
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from streamrecon.monitor.ports import unused_ports

SECRET_PATH = "/hooks/T0SECRET/B0SECRET"

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is missing: apt-get install openssl"
)


class Chat:
    """A webhook; answers with ``statuses`` one after the other, then with 200."""

    def __init__(self, statuses=(), headers=None):
        self.posts = []
        self.times = 0
        self.came = threading.Condition()
        chat = self
        left = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with chat.came:
                    chat.times += 1
                    status = left.pop(0) if left else 200
                    if status == 200:
                        chat.posts.append((self.path, self.headers["Content-Type"], json.loads(body)))
                    chat.came.notify_all()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{SECRET_PATH}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def texts(self):
        with self.came:
            return [post["text"] for _, _, post in self.posts]

    def wait_for(self, condition, seconds=60):
        """Wait until the texts that came fulfil a condition; return them."""
        with self.came:
            assert self.came.wait_for(lambda: condition([p["text"] for _, _, p in self.posts]), seconds), self.posts
        return self.texts()


class Mailbox:
    """What an aiosmtpd server hands its mail to."""

    def __init__(self, refuse=()):
        self.mails = []
        self.logins = []
        self.refuse = refuse

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refuse:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.mails.append((session.ssl is not None, envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 OK"

    def authenticate(self, server, session, envelope, mechanism, data):
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)


@contextmanager
def mail_server(box, certificate=None, **options):
    """Run a mail server on a free port; yields the port."""
    (port,) = unused_ports(1)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        options = {"tls_context": context, "require_starttls": True, **options}
    controller = Controller(box, hostname="127.0.0.1", port=port, ready_timeout=60.0, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def make_certificate(folder):
    """Return the paths of a certificate of 127.0.0.1 that nobody has signed, and of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        ["openssl", *new.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return certificate, key

"""The documentation does what it says: commands are typed, programs run, the site builds without a broken link."""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import typer

from streamrecon.cli.main import app
from streamrecon.config.model import Config
from streamrecon.io import read_volume, write_volume
from streamrecon.transport.publisher import Publisher
from tests.e2e.docs_pages import DOCS, Reader, blocks, with_ports
from tests.integration.publishing import FREE_PORT, make_result, make_snapshot, make_status

DEADLINE = 120.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_typed_line_by_line_ends_with_a_map(tmp_path):
    with Reader(tmp_path) as reader:
        reader.follow("tutorial.md")
    volume, voxel = read_volume(tmp_path / "session" / "snapshots" / "volume.mrc")
    assert volume.shape == (48, 48, 48)
    assert voxel == pytest.approx(4.3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_acceptance_test_of_a_facility_passes(tmp_path):
    with Reader(tmp_path) as reader:
        reader.follow("howto/acceptance.md")
    linked = next((tmp_path / "incoming").rglob("*.mrcs"))
    assert linked.samefile(tmp_path / "archive" / linked.relative_to(tmp_path / "incoming"))


def console_lines():
    for page in sorted(DOCS.rglob("*.md")):
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                if line.strip().startswith("$ streamrecon "):
                    yield page.relative_to(DOCS).as_posix(), line.strip()[2:]


@pytest.mark.parametrize(("page", "line"), list(console_lines()))
def test_every_command_of_every_page_is_one_that_exists(page, line):
    """Also those that are not run: verbs and options are looked up."""
    words = line.split("#")[0].removesuffix("&").split()[1:]
    command = typer.main.get_command(app)
    while (words and getattr(command, "commands", None) is not None) or command.name == "streamrecon":
        if words[0] == "--version":
            return
        command = command.get_command(typer.Context(command), words.pop(0))
        assert command is not None, f"{page}: {line}"
    known = {option for parameter in command.params for option in parameter.opts}
    given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= known, f"{page}: {line}"


@pytest.fixture
def publisher():
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, session_name="docs", heartbeat_seconds=0.1) as made:
        made.publish_snapshot(make_snapshot(2.0, box=10))
        made.publish_status(make_status(300))
        made.publish_poses(1, make_result(5), np.zeros(5, np.int8), make_status(300))
        yield made


class _Places:
    """The publisher's endpoints under the names of `SessionPorts`."""

    feed = monitor = control = ""

    def __init__(self, publisher):
        self.events, self.volumes, self.snapshots = publisher.events, publisher.volumes, publisher.snapshots


def program(page, name, publisher, folder):
    """Write a page's program into a folder, with the publisher's endpoints in it."""
    (text,) = [b.text for b in blocks(page) if b.file == name]
    path = folder / name
    path.write_text(with_ports(text, _Places(publisher)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("follow.py", ["map 100 20.0 (10, 10, 10) float32", "status searching 100.0", "lost on the way: {}"]),
        ("follow_async.py", ["poses 295 (5, 3)"]),
    ],
)
def test_the_programs_of_the_page_follow_a_session_to_its_end(publisher, tmp_path, name, expected):
    path = program("howto/program.md", name, publisher, tmp_path)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(DOCS.parent)}
    with subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            first = process.stdout.readline()  # it has joined
            publisher.close("done")
            said = first + process.stdout.read()  # not communicate: readline may have read ahead
            process.wait(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 0, said
    for text in expected:
        assert text in said


FAKE_NAPARI = """
import types
class Viewer:
    def __init__(self, title, ndisplay): self.layers = {}
    def add_image(self, data, name, rendering, scale):
        self.layers[name] = types.SimpleNamespace(data=data)
        print("added", data.shape, scale, flush=True)
workers = []
def thread_worker(connect):
    def wrap(function):
        def start():
            workers.append((function(), connect["yielded"]))
        return start
    return wrap
def run():
    for generator, show in workers:
        for number, message in zip(range(2), generator):
            show(message)
            print("shown", message.volume[0, 0, 0], flush=True)
"""


def test_the_napari_recipe_shows_each_new_map(publisher, tmp_path):
    """napari itself is not installed here: a stand-in with the four functions that the recipe uses."""
    package = tmp_path / "napari" / "qt"
    package.mkdir(parents=True)
    (tmp_path / "napari" / "__init__.py").write_text(FAKE_NAPARI)
    (package / "__init__.py").touch()
    (package / "threading.py").write_text("from napari import thread_worker\n")
    path = program("howto/viewers.md", "napari_follow.py", publisher, tmp_path)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{DOCS.parent}"}
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = process.stdout.readline() + process.stdout.readline()
            publisher.publish_snapshot(make_snapshot(5.0, box=10))
            said += process.stdout.read()
            process.wait(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 0
    assert said.splitlines() == ["added (10, 10, 10) (3.0, 3.0, 3.0)", "shown 2.0", "shown 5.0"]


def test_the_chimerax_recipe_opens_each_new_map_before_the_old_one_goes(publisher, tmp_path):
    """ChimeraX itself is not installed here: a server that takes what its REST command would."""
    commands = []
    enough = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urllib.parse.urlparse(self.path)
            assert url.path == "/run"
            commands.extend(urllib.parse.parse_qs(url.query)["command"])
            self.send_response(200)
            self.end_headers()
            if len(commands) in (2, 5):
                enough.set()

        def log_message(self, *_):
            pass

    path = program("howto/viewers.md", "chimerax_follow.py", publisher, tmp_path)
    map_path = tmp_path / "map.mrc"
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        process = subprocess.Popen([sys.executable, path, str(map_path), str(server.server_port)])
        try:
            for value in (1.0, 2.0):
                write_volume(map_path, np.full((8, 8, 8), value, np.float32), 2.0)
                assert enough.wait(DEADLINE)
                enough.clear()
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
            server.shutdown()
            thread.join()
    assert commands == [
        f'open "{map_path}" id 7',
        "volume #7 style surface sdLevel 4",
        f'open "{map_path}" id 8',
        "volume #8 style surface sdLevel 4",
        "close #7",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; strict: a broken link or a page without a place in the navigation fails."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=DOCS.parent,
        env=os.environ | {"PYTHONPATH": str(DOCS.parent), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_fetches_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="([^"]+)"', text)
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], page.name


def test_the_reference_has_every_key_every_verb_and_the_client(site):
    configuration = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    for table, model in Config():
        assert f"[{table}]" in configuration
        names = type(model).__dataclass_fields__ if table == "engine" else type(model).model_fields
        for key in names:
            assert f"<code>{key}</code>" in configuration
    cli = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    root = typer.main.get_command(app)
    for verb in root.list_commands(typer.Context(root)):
        assert f">streamrecon {verb}<" in cli
    assert "streamrecon replay session" in cli
    assert "--max-gap" in cli
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ("VolumeSubscriber", "AsyncVolumeSubscriber", "latest_only", "PosesMessage", "SequenceGap"):
        assert name in python


def test_the_search_index_is_of_the_site(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    pages = {entry["location"].split("#")[0] for entry in index["docs"]}
    assert {"tutorial.html", "protocol.html", "reference/cli.html"} <= pages

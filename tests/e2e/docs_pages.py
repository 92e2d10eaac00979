"""Pages of docs/ as programs: what a reader would type, and what the page says comes of it.

In a page, ``<!-- run -->`` before a ``console`` block means: a reader types its ``$`` lines, in order, in one
folder. The lines under one are what it prints, in that order, ``...`` standing for anything. A line that ends in
``&`` goes on beside the rest. ``<!-- file: NAME -->`` before a block means: the reader writes it into NAME.
"""

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from streamrecon.compare.session import free_ports

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^(?P<i> *)<!-- (?P<what>run|file: \S+) -->\n(?P=i)```\w+\n(?P<text>.*?)^(?P=i)```$", re.M | re.S)
_DEFAULTS = {"monitor": 8750, "feed": 8760, "events": 8761, "volumes": 8762, "snapshots": 8763, "control": 8764}


@dataclass(frozen=True)
class Block:
    """Something the reader does: ``file`` is empty for commands."""

    file: str
    text: str

    @property
    def commands(self):
        """Return (command, lines it prints) of each command."""
        out = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                out.append((line[2:], []))
            elif line:
                out[-1][1].append(line)
        return out


def blocks(page):
    """Return what a reader of a page does, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [
        Block(m["what"].removeprefix("run").removeprefix("file: "), textwrap.dedent(m["text"]))
        for m in _BLOCK.finditer(text)
    ]
    assert len(found) == len(re.findall(r"<!-- (?:run|file)", text)), f"{page}: a marked block that cannot be read"
    return found


def with_ports(text, ports):
    """Return a text with the default endpoints replaced, so that two sessions can run side by side."""
    for name, port in _DEFAULTS.items():
        text = text.replace(f"127.0.0.1:{port}", getattr(ports, name).removeprefix("tcp://"))
    return text


class Reader:
    """Does what a page says, in a folder, with ports of its own; a context manager."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = free_ports()
        self._beside = []
        programs = folder / ".bin"
        programs.mkdir()
        shim = programs / "streamrecon"
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m streamrecon "$@"\n')
        shim.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{DOCS.parent}:{os.environ.get('PYTHONPATH', '')}",
            "COLUMNS": "200",
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._beside:
            process.terminate()
        for process in self._beside:
            process.wait(timeout=120)

    def write(self, name, text):
        text = with_ports(text, self.ports)
        if name == "config.toml":
            p = self.ports
            text += f'\n[feed]\nendpoint = "{p.feed}"\n\n[monitor]\nbind = "{p.monitor}"\n\n[publish]\n'
            text += f'events = "{p.events}"\nvolumes = "{p.volumes}"\nsnapshots = "{p.snapshots}"\n'
            text += f'\n[control]\nendpoint = "{p.control}"\n'
        (self.folder / name).write_text(text, encoding="utf-8")

    def type(self, command, expected):
        command = with_ports(command, self.ports)
        options = {"cwd": self.folder, "env": self.environment, "text": True}
        if command.endswith("&"):
            words = f"exec {command.removesuffix('&')}"
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self._beside.append(subprocess.Popen(["bash", "-c", words], **options, **quiet))
            return
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=400,
            check=False,
            **options,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        pattern = ".*".join(".*".join(map(re.escape, line.split("..."))) for line in expected)
        assert re.search(pattern, done.stdout, re.DOTALL), f"$ {command}\nexpected {expected}, printed:\n{done.stdout}"

    def follow(self, page):
        """Do everything that the page says."""
        for block in blocks(page):
            if block.file:
                self.write(block.file, block.text)
            else:
                for command, expected in block.commands:
                    self.type(command, expected)

"""The browser's libraries, served from the installed Python packages that carry them, with their licences.

uPlot comes with youplot, the Mol* viewer with molstar-cli: pinned in the extra "page". Nothing of them is in this
repository, and neither package's own code is run.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

_CSS = "text/css; charset=utf-8"
_JS = "text/javascript; charset=utf-8"


@dataclass(frozen=True)
class _Source:
    distribution: str
    path: str  # below site-packages
    content_type: str


_FILES = {
    "uplot.js": _Source("youplot", "youplot/vendor/uplot.iife.min.js", _JS),
    "uplot.css": _Source("youplot", "youplot/vendor/uplot.min.css", _CSS),
    "molstar.js": _Source("molstar-cli", "molstar_cli/static/molstar/molstar.js", _JS),
    "molstar.css": _Source("molstar-cli", "molstar_cli/static/molstar/theme/light.css", _CSS),
    "molstar-dark.css": _Source("molstar-cli", "molstar_cli/static/molstar/theme/dark.css", _CSS),
}
_NOTICES = {
    "youplot": (
        "uPlot, https://github.com/leeoniya/uPlot: The MIT License, Copyright (c) 2022 Leon Sorokin. "
        "The package that carries it:"
    ),
    "molstar-cli": "Mol*, https://molstar.org, and the package that carries it:",
}


@dataclass(frozen=True)
class LibraryFile:
    """A file of a library: plain and compressed, with what tells one version from another."""

    body: bytes
    compressed: bytes
    content_type: str
    tag: str


def has_charts() -> bool:
    """Return whether uPlot is installed."""
    return _locate("uplot.js") is not None


def has_viewer() -> bool:
    """Return whether the Mol* viewer is installed."""
    return _locate("molstar.js") is not None


@cache
def library_file(name: str) -> LibraryFile | None:
    """Return a file of a library, None if there is no such file or its package is not installed."""
    path = _locate(name)
    if path is None:
        return None
    source = _FILES[name]
    body = path.read_bytes()
    tag = f'"{source.distribution}-{metadata.version(source.distribution)}-{len(body)}"'
    # compressed once: it is megabytes, and people look through slow tunnels
    return LibraryFile(body, gzip.compress(body, 6, mtime=0), source.content_type, tag)


@cache
def licences() -> str:
    """Return the licences of what is served, as their packages state them."""
    texts = []
    for name, notice in _NOTICES.items():
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        texts.append(f"{notice}\n{name} {found.version}")
        texts.extend(
            f"--- {file.name}\n{Path(str(file.locate())).read_text(encoding='utf-8')}"
            for file in found.files or ()
            if "licen" in file.name.lower() and ".dist-info" in file.parts[0]
        )
    return "\n\n".join(texts) or "No library of others is installed.\n"


def _locate(name: str) -> Path | None:
    source = _FILES.get(name)
    if source is None:
        return None
    try:
        path = Path(str(metadata.distribution(source.distribution).locate_file(source.path)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None

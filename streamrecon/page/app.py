"""The page's HTTP side: page, stream, pictures, maps and downloads. It answers GET and changes nothing."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import AsyncIterator, Iterator
from functools import partial
from importlib import resources
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamrecon.io import volume_bytes
from streamrecon.page import libraries
from streamrecon.page.hub import Hub
from streamrecon.page.pictures import map_picture
from streamrecon.page.plain import plain_page
from streamrecon.page.view import SessionView

MOST_STREAMS = 64
_CHUNK = 256 * 1024
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
DOWNLOADS = {
    "volume.mrc": "snapshots/volume.mrc",
    "half_a.mrc": "snapshots/half_a.mrc",
    "half_b.mrc": "snapshots/half_b.mrc",
    "fsc.csv": "snapshots/fsc.csv",
    "status.json": "snapshots/status.json",
    "particles.star": "particles.star",
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Mol* compiles code at run time. It gets a document of its own, of no origin, that can reach nothing: the page hands it
# each map as a message.
_VIEWER_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self'; img-src data: blob:; "
    "connect-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts"
)
_NO_CACHE = {"Cache-Control": "no-cache"}
_VERSIONED = {"Cache-Control": "private, max-age=600, immutable"}


def make_app(view: SessionView, output_dir: Path, session_name: str, *, any_host: bool = False) -> Starlette:
    """Return the application.

    Parameters
    ----------
    view : SessionView
    output_dir : Path
        Downloads come from here, by a fixed list of names.
    session_name : str
        In the names of downloaded files.
    any_host : bool
        Whether requests may name the server as they like. On the loopback they must name it by an address or as
        localhost: a name would be another site's, pointed here to read the page (DNS rebinding).
    """
    pages = _Pages(view, output_dir, session_name)
    routes = [
        Route("/", pages.front),
        Route("/plain", pages.plain),
        Route("/events", pages.events),
        Route("/viewer", pages.viewer),
        Route("/static/{name}", pages.static),
        Route("/library/{name}", pages.library),
        Route("/map/{name}.mrc", pages.map_file),
        Route("/map/{name}/{kind}.png", pages.map_png),
        Route("/angular.png", pages.angular_png),
        Route("/download/{name}", pages.download),
        Route("/licences.txt", pages.licences),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Guard, any_host=any_host)])


class _Guard:
    """Refuse foreign host names, and put the headers on every answer that let a browser do as little as possible."""

    def __init__(self, app: ASGIApp, *, any_host: bool) -> None:
        self._app = app
        self._any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                extra = {
                    b"content-security-policy": _PAGE_POLICY.encode(),
                    b"x-content-type-options": b"nosniff",
                    b"referrer-policy": b"no-referrer",
                    b"cross-origin-resource-policy": b"same-origin",
                    b"cross-origin-opener-policy": b"same-origin",
                }
                message["headers"] = [*message["headers"], *((k, v) for k, v in extra.items() if k not in names)]
            await send(message)

        host = Request(scope).headers.get("host", "")
        if self._any_host or _is_address(host):
            await self._app(scope, receive, guarded)
        else:
            text = f"this page is served on the loopback: use http://127.0.0.1 or localhost, not {host[:100]!r}\n"
            await PlainTextResponse(text, 421)(scope, receive, guarded)


def _is_address(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost"
    return True


class _Pages:
    """One method a route."""

    def __init__(self, view: SessionView, output_dir: Path, session_name: str) -> None:
        self._view = view
        self._output_dir = output_dir
        self._prefix = "".join(c if c.isalnum() or c in "-_" else "_" for c in session_name)

    @property
    def _hub(self) -> Hub:
        return self._view.hub

    async def front(self, request: Request) -> Response:
        if not libraries.has_charts():
            return await self.plain(request)
        return _own_file(request, "index.html")

    async def plain(self, request: Request) -> Response:  # noqa: ARG002  # what Starlette calls
        files = {name: (self._output_dir / path).is_file() for name, path in DOWNLOADS.items()}
        return HTMLResponse(plain_page(self._hub, files, charts=libraries.has_charts()), headers=_NO_CACHE)

    async def events(self, request: Request) -> Response:  # noqa: ARG002
        if self._hub.watchers >= MOST_STREAMS:
            return PlainTextResponse(f"{MOST_STREAMS} pages are open; close some\n", 503)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._hub.stream(), media_type="text/event-stream", headers=headers)

    async def viewer(self, request: Request) -> Response:
        name = "viewer.html" if libraries.has_viewer() else "no_viewer.html"
        return _own_file(request, name, {"Content-Security-Policy": _VIEWER_POLICY})

    async def static(self, request: Request) -> Response:
        return _own_file(request, request.path_params["name"])

    async def library(self, request: Request) -> Response:
        found = await run_in_threadpool(libraries.library_file, request.path_params["name"])
        if found is None:
            return _not_found()
        headers = {**_NO_CACHE, "Vary": "Accept-Encoding", "Cross-Origin-Resource-Policy": "cross-origin"}
        body = found.body
        if "gzip" in request.headers.get("accept-encoding", ""):
            body, headers = found.compressed, {**headers, "Content-Encoding": "gzip"}
        return _tagged(request, body, found.content_type, found.tag, headers)

    async def licences(self, request: Request) -> Response:  # noqa: ARG002
        return PlainTextResponse(libraries.licences(), headers=_NO_CACHE)

    async def map_file(self, request: Request) -> Response:
        found = self._view.volume(request.path_params["name"])
        if found is None:
            return _not_found()
        body = await run_in_threadpool(volume_bytes, *found)
        return Response(body, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})

    async def map_png(self, request: Request) -> Response:
        found, kind = self._view.volume(request.path_params["name"]), request.path_params["kind"]
        if found is None or kind not in ("slices", "projections"):
            return _not_found()
        body = await run_in_threadpool(partial(map_picture, found[0], kind))
        return Response(body, media_type="image/png", headers=_VERSIONED)

    async def angular_png(self, request: Request) -> Response:  # noqa: ARG002
        body = self._view.angular()
        return _not_found() if body is None else Response(body, media_type="image/png", headers=_VERSIONED)

    async def download(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in DOWNLOADS:
            return _not_found()
        try:
            descriptor = os.open(self._output_dir / DOWNLOADS[name], os.O_RDONLY)
        except OSError:
            return _not_found()
        # the open file stays whole while a newer one takes its name
        size = os.fstat(descriptor).st_size
        headers = {
            "Content-Length": str(size),
            "Content-Disposition": f'attachment; filename="{self._prefix}-{name}"',
            "Cache-Control": "no-store",
        }
        return StreamingResponse(_read(descriptor, size), media_type="application/octet-stream", headers=headers)


async def _read(descriptor: int, size: int) -> AsyncIterator[bytes]:
    try:
        for chunk in _chunks(size):
            yield await run_in_threadpool(os.read, descriptor, chunk)
    finally:
        os.close(descriptor)


def _chunks(size: int) -> Iterator[int]:
    while size > 0:
        yield min(size, _CHUNK)
        size -= _CHUNK


def _own_file(request: Request, name: str, headers: dict[str, str] | None = None) -> Response:
    """Return a file of ours; only what lies in the package's static folder has a name there."""
    own = {item.name: item for item in resources.files("streamrecon.page").joinpath("static").iterdir()}
    content_type = _TYPES.get(Path(name).suffix)
    if name not in own or content_type is None:
        return _not_found()
    body = own[name].read_bytes()
    tag = f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    everywhere = {"Cross-Origin-Resource-Policy": "cross-origin"} if name.startswith("viewer") else {}
    return _tagged(request, body, f"{content_type}; charset=utf-8", tag, {**_NO_CACHE, **everywhere, **(headers or {})})


def _tagged(request: Request, body: bytes, content_type: str, tag: str, headers: dict[str, str]) -> Response:
    headers = {**headers, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=content_type, headers=headers)


def _not_found() -> Response:
    return PlainTextResponse("there is no such thing here, or not yet\n", 404)

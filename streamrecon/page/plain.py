"""The page without scripts: numbers, pictures and links, for browsers and people that want no more.

It is also what `/` shows where the extra "page" is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from streamrecon.page.hub import Hub

_REFRESH_SECONDS = 15
_CHARTS_MISSING = (
    "<p>The full page needs the browser libraries: <code>pip install 'streamrecon[page]'</code>, then start again.</p>"
)


def plain_page(hub: Hub, downloads: Mapping[str, bool], *, charts: bool) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    hub : Hub
        Its sections are shown.
    downloads : mapping of str to bool
        File names, and whether each is there.
    charts : bool
        Whether the full page can be had.
    """
    state, maps = hub.get("state"), hub.get("maps").get("maps", {})
    name = str(hub.get("session").get("name", "session"))
    parts = [
        "<p><a href='/'>Full page</a></p>" if charts else _CHARTS_MISSING,
        f"<h1>{escape(name)}</h1><p><strong>{escape(str(state.get('title', '')))}.</strong>"
        f" {escape(str(state.get('text', '')))}</p>",
        _table("Numbers", ("what", "value"), _numbers(hub)),
        _pictures(maps if isinstance(maps, dict) else {}, hub.get("assessment")),
        _quarantine(hub.get("ledger")),
        "<h2>Downloads</h2><ul>"
        + "".join(
            f"<li><a href='/download/{file}'>{file}</a></li>" if there else f"<li>{file}: not yet</li>"
            for file, there in downloads.items()
        )
        + "</ul><p><a href='/metrics'>Metrics</a>, <a href='/licences.txt'>licences</a></p>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<meta http-equiv='refresh' content='{_REFRESH_SECONDS}'><title>{escape(name)}: streamrecon</title>"
        "<link rel='icon' href='/static/icon.svg'>"
        "<link rel='stylesheet' href='/static/page.css'></head><body class='plain'>"
        f"<main>{''.join(parts)}</main></body></html>"
    )


def _numbers(hub: Hub) -> Iterable[tuple[str, str]]:
    status: Mapping[str, Any] = hub.get("status")
    ledger: Mapping[str, Any] = hub.get("ledger")
    assessment, symmetry = hub.get("assessment"), hub.get("symmetry")
    particles = ledger.get("particles", {})
    yield "particles in", f"{sum(particles.get(k, 0) for k in ('ready', 'queued', 'folded')):,}"
    yield "particles in the map", f"{status.get('particles_seen', 0):,}"
    yield "lag, s", _number(ledger.get("lag_seconds"))
    yield "images a second", _number(status.get("images_per_second"))
    yield f"resolution, Å (halves: {status.get('fsc_kind', 'none yet')})", _number(status.get("resolution_angstrom"))
    yield "resolution under a mask, Å", _number(assessment.get("resolution_masked_angstrom"))
    yield "effective sample size", _number(status.get("effective_sample_size"))
    yield "log-evidence of an image, nats", _number(status.get("log_evidence"))
    yield "efficiency of the views", _number(assessment.get("angular_efficiency"), 2)
    why = f" ({symmetry['reason']})" if symmetry.get("reason") else ""
    yield "symmetry", f"{symmetry.get('text', 'not known yet')}{why}"
    yield "random starts running", str(status.get("starts", 1))
    yield "in quarantine", str(ledger.get("quarantine_open", 0))


def _pictures(maps: Mapping[str, Any], assessment: Mapping[str, Any]) -> str:
    parts: list[str] = []
    if "full" in maps:
        version = escape(str(maps["full"]["version"]))
        parts.extend(
            f"<figure><img src='/map/full/{kind}.png?v={version}' alt='{text}' class='tiles'>"
            f"<figcaption>{text}</figcaption></figure>"
            for kind, text in (
                ("slices", "Central slices along z, y and x"),
                ("projections", "Projections along z, y and x"),
            )
        )
    if assessment.get("angular_shown"):
        parts.append("<figure><img src='/angular.png' alt='Heat map of views' class='tiles'></figure>")
    return "".join(parts)


def _quarantine(ledger: Mapping[str, Any]) -> str:
    rows = [(e["identity"] or e["path"], e["kind"], e["reason"]) for e in ledger.get("quarantine", [])]
    return _table("Quarantine", ("what", "kind", "reason"), rows) if rows else ""


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th scope='col'>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: object, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "not yet"

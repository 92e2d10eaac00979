"""The report of a run: CSV files, figures, and one HTML page with all of them, of whatever is there."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.experiments import figures, tables
from streamrecon.experiments.cells import PARTS, cells_of
from streamrecon.experiments.plan import Plan
from streamrecon.experiments.problem import make_problem
from streamrecon.experiments.store import Store
from streamrecon.io import atomic_path

_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse;font-size:85%}"
    "td,th{border:1px solid #bbb;padding:2px 8px;text-align:right}td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}"
)
_MOST_MAPS = 4  # of one method in the table of maps


def write_report(plan: Plan, store: Store, command: str) -> Path:
    """Write everything that can be said of the results that are there; return the page.

    Parameters
    ----------
    command : str
        What makes it again.
    """
    folder = store.folder
    body = [
        f"<h1>streamrecon experiments: {html.escape(plan.name)}</h1>",
        f"<p>Made by <code>{html.escape(command)}</code></p>",
    ]
    text = [f"# streamrecon experiments: {plan.name}\n", f"Made by `{command}`\n"]
    for part in PARTS:
        rows = tables.rows_of(plan, part, store)
        total = len(cells_of(plan, part, store))
        if not total:
            continue
        done = sum(store.has(cell) for cell in cells_of(plan, part, store))
        cpu = sum(result.cpu_seconds for cell in cells_of(plan, part, store) if (result := store.get(cell)))
        body.append(f"<h2>{part}</h2><p>{done} of {total} cells, {cpu:.0f} processor seconds.</p>")
        if not rows:
            continue
        tables.write_csv(folder / f"{part}.csv", rows)
        shown, pictures = _SECTIONS[part](plan, store, rows)
        text += [f"## {part}\n", tables.markdown(shown)]
        body += [_table(shown), *(f'<p><img src="{name}" alt="{name}"></p>' for name in pictures)]
    with atomic_path(folder / "report.md") as temporary:
        temporary.write_text("\n".join(text), encoding="utf-8")
    page = folder / "report.html"
    head = f"<meta charset=utf-8><title>{html.escape(plan.name)}</title><style>{_STYLE}</style>"
    whole = f"<!doctype html><html lang=en>{head}<body>{''.join(body)}</body></html>\n"
    with atomic_path(page) as temporary:
        temporary.write_text(whole, encoding="utf-8")
    return page


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    lines = (
        "<tr>"
        + "".join(f"<td>{html.escape(str('' if row.get(c) is None else row[c]))}</td>" for c in columns)
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _tuning(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:  # noqa: ARG001  # all sections are called alike
    return tables.tuning_table(plan, store), []


def _stream(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:
    figures.draw_curves(store.folder / "curves.png", rows)
    figures.draw_fsc(store.folder / "fsc.png", rows, "method", plan.data.box_angstrom)
    pictures = ["curves.png", "fsc.png"]
    maps = _maps(plan, "stream", store, "method")
    if maps:
        heading = "projections along y after so many image visits, each aligned with the truth"
        figures.draw_maps(store.folder / "maps.png", make_problem(plan.data).truth, maps, heading)
        pictures.insert(0, "maps.png")
    return tables.stream_table(plan, store), pictures


def _maps(plan: Plan, part: str, store: Store, key: str) -> dict[str, dict[str, NDArray[np.float32]]]:
    out: dict[str, dict[str, NDArray[np.float32]]] = {}
    for cell in cells_of(plan, part, store):
        result = store.get(cell, volumes=True)
        if result is not None and result.volumes:
            names = sorted(result.volumes)
            # the first ones, and the last
            names = names if len(names) <= _MOST_MAPS else [*names[: _MOST_MAPS - 1], names[-1]]
            out[str(cell.parameters[key])] = {f"{int(n):,}": result.volumes[n] for n in names}
    return out


def _starts(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:  # noqa: ARG001
    rates = tables.success_rates(rows)
    tables.write_csv(store.folder / "success.csv", rates)
    figures.draw_starts(store.folder / "starts.png", rows, rates)
    return rates, ["starts.png"]


def _sensitivity(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:  # noqa: ARG001
    figures.draw_sensitivity(store.folder / "sensitivity.png", rows)
    names = ("method", "varied", "factor", "mini_batch", "snr", "fsc_05_angstrom", "held_out", "share_within_15")
    return tables.plain([{n: row[n] for n in names} for row in rows]), ["sensitivity.png"]


def _sampling(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:  # noqa: ARG001
    figures.draw_sampling(store.folder / "sampling.png", rows)
    return tables.plain(rows), ["sampling.png"]


def _priors(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:
    figures.draw_fsc(store.folder / "priors_fsc.png", rows, "prior", plan.data.box_angstrom)
    pictures = ["priors_fsc.png"]
    maps = _maps(plan, "priors", store, "prior")
    if maps:
        figures.draw_maps(
            store.folder / "priors.png", make_problem(plan.data).truth, maps, "projections along y under each prior"
        )
        pictures.insert(0, "priors.png")
    names = (
        "prior",
        "image_visits",
        "fsc_05_angstrom",
        "fsc_0143_angstrom",
        "held_out",
        "share_within_15",
        "cpu_seconds",
    )
    return tables.plain([{n: row[n] for n in names} for row in rows]), pictures


def _real(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:  # noqa: ARG001
    if any("excess" in row for row in rows):
        figures.draw_real(store.folder / "real.png", rows)
    last: dict[str, tables.Row] = {row["method"]: row for row in rows}
    pictures = ["real.png"] if any("excess" in row for row in rows) else []
    return tables.plain(list(last.values())), pictures


def _relion(plan: Plan, store: Store, rows: list[tables.Row]) -> tuple[list[tables.Row], list[str]]:  # noqa: ARG001
    return tables.plain(rows), []


_SECTIONS = {
    "tuning": _tuning,
    "stream": _stream,
    "starts": _starts,
    "sensitivity": _sensitivity,
    "sampling": _sampling,
    "priors": _priors,
    "real": _real,
    "relion": _relion,
}

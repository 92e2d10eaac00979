"""From results to tables: rows of plain values, as CSV, HTML and Markdown show them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamrecon.experiments.cells import cells_of
from streamrecon.experiments.measures import SUCCESS_SHARE, wilson_interval
from streamrecon.experiments.methods import TITLES
from streamrecon.experiments.plan import Plan
from streamrecon.experiments.store import Store
from streamrecon.io import atomic_path

Row = dict[str, Any]


def rows_of(plan: Plan, part: str, store: Store) -> list[Row]:
    """Return all rows of a part's cells that are there."""
    found = (store.get(cell) for cell in cells_of(plan, part, store))
    return [row for result in found if result is not None for row in result.rows]


def success_rates(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return successes, trials and Wilson's interval of each method and kind of start."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["method"]), []).append(row)
    out = []
    for (kind, method), members in groups.items():
        n = len(members)
        successes = sum(m["share_within_15"] >= SUCCESS_SHARE for m in members)
        low, high = wilson_interval(successes, n)
        out.append(
            {
                "start": kind,
                "method": TITLES.get(method, method),
                "image visits": members[0]["image_visits"],
                "starts": n,
                "successes": successes,
                "rate": round(successes / n, 3),
                "95 % from": round(low, 3),
                "95 % to": round(high, 3),
                "median share within 15 deg": round(_median([m["share_within_15"] for m in members]), 3),
                "best share": round(max(m["share_within_15"] for m in members), 3),
                "CPU s a start": round(_median([m["cpu_seconds"] for m in members]), 1),
            }
        )
    return out


def stream_table(plan: Plan, store: Store) -> list[Row]:
    """Return a method a row, the checkpoints as columns: FSC 0.5 to the truth; and what the end was like."""
    by_method: dict[str, list[Row]] = {}
    for row in rows_of(plan, "stream", store):
        by_method.setdefault(row["method"], []).append(row)
    checkpoints = [] if plan.stream is None else [c for c in plan.stream.checkpoints if c < plan.stream.images]
    out = []
    for method, rows in by_method.items():
        at = {row["image_visits"]: row for row in rows}
        last = rows[-1]
        out.append(
            {
                "method": TITLES.get(method, method),
                **{f"FSC 0.5 at {c} (A)": _rounded(at.get(c, {}).get("fsc_05_angstrom")) for c in checkpoints},
                "FSC 0.5 at the end (A)": _rounded(last["fsc_05_angstrom"]),
                "FSC 0.143 (A)": _rounded(last["fsc_0143_angstrom"]),
                "poses within 15 deg": round(last["share_within_15"], 3),
                "held-out log-likelihood": _rounded(last["held_out"]),
                "image visits": last["image_visits"],
                "CPU s": _rounded(last["cpu_seconds"]),
            }
        )
    return out


def tuning_table(plan: Plan, store: Store) -> list[Row]:
    """Return a method a row: held-out log-likelihood with each step size."""
    by_method: dict[str, Row] = {}
    for row in rows_of(plan, "tuning", store):
        line = by_method.setdefault(row["method"], {"method": TITLES.get(row["method"], row["method"])})
        line[f"step x {row['factor']:g}"] = _rounded(row["held_out"])
    return list(by_method.values())


def plain(rows: Sequence[Mapping[str, Any]], leave_out: Sequence[str] = ("fsc",)) -> list[Row]:
    """Return rows without lists, and numbers rounded for reading."""
    return [{k: _rounded(v) for k, v in row.items() if k not in leave_out} for row in rows]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, atomically; columns in the order in which they first come, lists separated by spaces."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, columns, lineterminator="\n")
        out.writeheader()
        for row in rows:
            out.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [["-" if row.get(c) is None else str(row[c]) for c in columns] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if abs(value) < 1e5 else round(value)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

"""From a plan to its cells, part by part; later parts use the step sizes that tuning found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamrecon.experiments.methods import best_factor, has_step
from streamrecon.experiments.plan import Plan
from streamrecon.experiments.store import Cell, Result, Store

PARTS = ("tuning", "stream", "starts", "sensitivity", "sampling", "priors", "real", "relion")
_PEERS = ("em", "projection_matching")


def cells_of(plan: Plan, part: str, store: Store) -> list[Cell]:
    """Return the cells of a part, in the order in which they are run."""
    makers = {
        "tuning": _tuning, "stream": _stream, "starts": _starts, "sensitivity": _sensitivity, "sampling": _sampling,
        "priors": _priors, "real": _real, "relion": _relion,
    }  # fmt: skip
    return list(makers[part](plan, store))


def step_factor(plan: Plan, method: str, store: Store) -> float:
    """Return the step size that a method is used with, over its default."""
    if not has_step(method):
        return 1.0
    tried: dict[float, Result] = {}
    for cell in _tuning(plan, store):
        result = store.get(cell) if cell.parameters["method"] == method else None
        if result is not None:
            tried[float(cell.parameters["factor"])] = result
    return best_factor(plan, method, tried)


def _data(plan: Plan) -> dict[str, Any]:
    return plan.data.model_dump(mode="json")


def _tuning(plan: Plan, store: Store) -> Iterator[Cell]:  # noqa: ARG001  # all makers are called alike
    if plan.tuning is None or plan.stream is None:
        return
    held_out = {"images": plan.stream.held_out_images, "shells": plan.stream.held_out_shells}
    for method in plan.tuning.methods:
        for factor in plan.tuning.factors if has_step(method) else ():
            parameters = {
                "data": _data(plan), "images": plan.tuning.images, "held_out": held_out, "method": method,
                "factor": factor,
            }  # fmt: skip
            yield Cell("tuning", f"{method}-{factor:g}", parameters)


def _stream(plan: Plan, store: Store) -> Iterator[Cell]:
    section = plan.stream
    if section is None:
        return
    held_out = {"images": section.held_out_images, "shells": section.held_out_shells}
    common = {"data": _data(plan), "images": section.images, "held_out": held_out}
    for method in section.methods:
        factor = step_factor(plan, method, store)
        checkpoints = list(section.checkpoints)
        yield Cell("stream", method, {**common, "checkpoints": checkpoints, "method": method, "factor": factor})
    for peer in section.peers:
        yield Cell("stream", peer, {**common, "passes": section.peer_passes, "method": peer})


def _starts(plan: Plan, store: Store) -> Iterator[Cell]:
    section = plan.starts
    if section is None:
        return
    common = {
        "data": {**_data(plan), "box_size": section.box_size, "snr": section.snr},
        "images": section.images,
        "search_shells": section.search_shells,
        "in_plane_angles": section.in_plane_angles,
    }
    # seed by seed, so that a run that is broken off has the same number of each
    for number in range(section.starts):
        for kind in section.kinds:
            for method in section.methods if kind == "random" or number < section.good_starts else ():
                more: dict[str, Any] = {
                    "factor": step_factor(plan, method, store), "settle_images": section.settle_images,
                }  # fmt: skip
                if method in _PEERS:
                    more = {"passes": section.passes, "tau2": section.tau2}
                parameters = {**common, **more, "method": method, "kind": kind, "number": number}
                if method not in _PEERS and section.stream_images:
                    parameters["images"] = section.stream_images
                yield Cell("starts", f"{method}-{kind}-{number:02d}", parameters)


def _sensitivity(plan: Plan, store: Store) -> Iterator[Cell]:
    section = plan.sensitivity
    if section is None or plan.stream is None:
        return
    held_out = {"images": plan.stream.held_out_images, "shells": plan.stream.held_out_shells}
    common = {"data": _data(plan), "images": section.images, "held_out": held_out}
    for method in section.methods:
        factor = step_factor(plan, method, store)
        base: dict[str, Any] = {
            "method": method, "factor": factor, "mini_batch": plan.data.mini_batch, "snr": plan.data.snr,
        }  # fmt: skip
        changed: list[tuple[str, str, float]] = []
        if has_step(method):
            changed += [("step", "factor", factor * f) for f in section.step_factors]
        changed += [("batch", "mini_batch", b) for b in section.mini_batches]
        changed += [("snr", "snr", s) for s in section.snrs]
        for name, key, value in changed:
            yield Cell("sensitivity", f"{method}-{name}-{value:g}", {**common, **base, key: value, "varied": name})


def _sampling(plan: Plan, store: Store) -> Iterator[Cell]:  # noqa: ARG001
    section = plan.sampling
    if section is None:
        return
    for band in section.bands:
        images = section.images_at.get(str(band), section.images)
        parameters = {
            "data": _data(plan), "band": band, "images": images, "grid_step": section.grid_step,
            "map_images": section.map_images, "twice": band <= section.twice_shells,
        }  # fmt: skip
        yield Cell("sampling", f"band-{band:02d}", parameters)


def _priors(plan: Plan, store: Store) -> Iterator[Cell]:  # noqa: ARG001
    section = plan.priors
    if section is None or plan.stream is None:
        return
    held_out = {"images": plan.stream.held_out_images, "shells": plan.stream.held_out_shells}
    for kind in section.kinds:
        parameters = {"data": _data(plan), "images": section.images, "held_out": held_out, "prior": kind}
        yield Cell("priors", kind, parameters)


def _real(plan: Plan, store: Store) -> Iterator[Cell]:
    section = plan.real
    if section is None:
        return
    common = {"particles": section.particles, "shells": section.shells}
    for method in section.methods:
        factor = step_factor(plan, method, store)
        yield Cell("real", method, {**common, "method": method, "factor": factor, "steps": section.steps})
    for peer in section.peers:
        yield Cell("real", peer, {**common, "method": peer, "passes": section.passes})


def _relion(plan: Plan, store: Store) -> Iterator[Cell]:  # noqa: ARG001
    section = plan.relion
    if section is None:
        return
    parameters = {
        "data": {**_data(plan), "box_size": section.box_size}, "images": section.images, "mode": section.mode,
        "iterations": list(section.iterations), "limit_seconds": section.limit_seconds,
    }  # fmt: skip
    yield Cell("relion", section.mode, parameters)

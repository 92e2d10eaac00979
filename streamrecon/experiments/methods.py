"""The streaming methods by name, with the step sizes that a plan or its tuning says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, get_args, get_type_hints

from streamrecon.errors import ConfigError
from streamrecon.experiments.plan import Plan
from streamrecon.experiments.store import Result
from streamrecon.optimise.methods import METHODS, Method, MethodName
from streamrecon.reconstruct.settings import EngineSettings

ONLINE_EM = "online_em"
TITLES = {
    "online_em": "online EM (default)",
    "sgd": "SGD",
    "momentum": "classical momentum",
    "nesterov": "Nesterov",
    "adagrad": "AdaGrad",
    "tonga": "TONGA",
    "olbfgs": "online L-BFGS",
    "hessian_free": "Hessian-free",
    "sagd": "SAGD (2015)",
    "em": "EM (batch)",
    "projection_matching": "projection matching (batch)",
    "relion": "RELION",
}


def streaming_methods() -> tuple[str, ...]:
    """Return the methods that the engine knows."""
    return tuple(get_args(get_type_hints(EngineSettings)["method"]))


def has_step(method: str) -> bool:
    """Return whether a method has a step size to tune."""
    return method != ONLINE_EM and _known(method) is not None


def method_settings(method: str, factor: float = 1.0, **more: Any) -> EngineSettings:
    """Return the engine's settings for a method.

    Parameters
    ----------
    factor : float
        Step size over the method's default; without meaning where there is none.

    Raises
    ------
    ConfigError
        There is no such method.
    """
    if method not in streaming_methods():
        raise ConfigError(f"method {method!r}: expected one of {', '.join(streaming_methods())}; mend it in the plan")
    settings = replace(EngineSettings(), starts=1, **more)
    if method == ONLINE_EM:
        return settings
    known = _known(method)
    step = 0.0 if known is None else factor * known.step
    return replace(settings, method=cast("MethodName", method), step_size=step)


def _known(method: str) -> Method | None:
    return METHODS.get(cast("MethodName", method))


def best_factor(plan: Plan, method: str, tried: dict[float, Result]) -> float:
    """Return the step size to use, over the method's default: the plan's, or the best of those tried.

    Parameters
    ----------
    tried : dict of float to Result
        What tuning gave for each factor; the highest held-out log-likelihood wins.
    """
    if method in plan.step_factors:
        return plan.step_factors[method]
    scores = {f: r.rows[-1].get("held_out") for f, r in tried.items() if r.rows}
    usable = {f: float(score) for f, score in scores.items() if score is not None}
    return max(usable, key=lambda f: usable[f]) if usable else 1.0

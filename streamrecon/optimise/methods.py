"""The optimisers by name, with the step sizes that serve without tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamrecon.optimise.adagrad import AdaGrad
from streamrecon.optimise.hessian_free import HessianFree
from streamrecon.optimise.interface import Optimiser
from streamrecon.optimise.momentum import Momentum, Nesterov
from streamrecon.optimise.olbfgs import OnlineLbfgs
from streamrecon.optimise.online_em import OnlineEm
from streamrecon.optimise.sagd import Sagd
from streamrecon.optimise.sgd import Sgd
from streamrecon.optimise.tonga import Tonga

DECAY_IMAGES = 10_000.0


@dataclass(frozen=True)
class Method:
    """A method of the table.

    Attributes
    ----------
    make : callable
        From a step size and the images after which it is half as long.
    step : float
        That serves without tuning; its unit is the method's own.
    """

    make: Callable[[float, float], Optimiser]
    step: float


METHODS = {
    "online_em": Method(OnlineEm, 0.2),
    "sgd": Method(Sgd, 0.5),
    "momentum": Method(Momentum, 0.05),
    "nesterov": Method(Nesterov, 0.05),
    "adagrad": Method(lambda step, _: AdaGrad(step), 1.0),
    "tonga": Method(Tonga, 0.5),
    "olbfgs": Method(OnlineLbfgs, 0.3),
    "hessian_free": Method(lambda step, _: HessianFree(step), 1.0),
    "sagd": Method(Sagd, 0.25),
}


def make_optimiser(name: str, step: float = 0.0, decay_images: float = DECAY_IMAGES) -> Optimiser:
    """Return a fresh optimiser.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    step : float
        0 takes the method's own.
    decay_images : float
        Images after which steps are half as long.

    Raises
    ------
    ValueError
        There is no such method.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r}: expected one of {', '.join(METHODS)}")
    method = METHODS[name]
    return method.make(step or method.step, decay_images)

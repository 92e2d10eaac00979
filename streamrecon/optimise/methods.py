"""The optimisers by name, with the step sizes that serve without tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
MethodName: TypeAlias = Literal[
    "online_em", "sgd", "momentum", "nesterov", "adagrad", "tonga", "olbfgs", "hessian_free", "sagd"
]


@dataclass(frozen=True)
class Method:
    """A method of the table.

    Attributes
    ----------
    make : callable
        From a step size and the images after which it is half as long.
    step : float
        That serves without tuning; its unit is the method's own.
    patience : float
        How many times more images than the default's a search for poses needs. A step along the gradient moves what
        the images say little about (shells of low curvature) by a small part of the way only, and while poses are not
        known the map must keep up with them.
    """

    make: Callable[[float, float], Optimiser]
    step: float
    patience: float = 1.0


METHODS: dict[MethodName, Method] = {
    "online_em": Method(OnlineEm, 0.2),
    "sgd": Method(Sgd, 1.4, patience=2.5),
    "momentum": Method(Momentum, 0.4, patience=2.5),
    "nesterov": Method(Nesterov, 0.4, patience=2.5),
    "adagrad": Method(lambda step, _: AdaGrad(step), 1.0),
    "tonga": Method(Tonga, 1.0, patience=2.5),
    "olbfgs": Method(OnlineLbfgs, 0.5),
    "hessian_free": Method(lambda step, _: HessianFree(step), 1.0),
    "sagd": Method(Sagd, 1.0, patience=2.5),
}


def make_optimiser(name: MethodName, step: float = 0.0, decay_images: float = DECAY_IMAGES) -> Optimiser:
    """Return a fresh optimiser.

    Parameters
    ----------
    name : MethodName
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

"""Step sizes that need no tuning: in units of the curvature, and falling with the images seen."""

from __future__ import annotations

from collections.abc import Mapping

from streamrecon.optimise.interface import Closure, Scalars

REFERENCE_IMAGES = 50  # of a mini-batch that step sizes are meant for: a half-set's share of a hundred
_KEEP = 0.95  # of the largest curvature so far, a mini-batch: a batch of low curvature does not make the steps wild


class Schedule:
    """Step sizes of one optimiser.

    Parameters
    ----------
    step : float
        Without unit: 1 is the longest step that is safe on a quadratic, one over its largest curvature.
    decay_images : float
        Images after which the steps are half as long; infinite for constant steps.

    Notes
    -----
    With t the images seen, n those of the mini-batch and L the largest curvature of late,

        epsilon = step min(1, n / 50) / (L (1 + t / decay_images))

    The sum of all steps is infinite, that of their squares is not, as Robbins and Monro ask. Steps that fall like 1 / t
    weigh all images alike in the end, as the default's growing window does. Smaller mini-batches make shorter steps,
    so that how fast a map follows is a matter of images; larger ones do not make longer steps, which would not be safe.
    """

    def __init__(self, step: float, decay_images: float) -> None:
        self._step = step
        self._decay_images = decay_images
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self.images = 0.0
        self.largest = 0.0

    def relative(self, closure: Closure) -> float:
        """Return the step for a mini-batch without the curvature's unit, and count its images."""
        step = self._step * min(1.0, closure.images / REFERENCE_IMAGES) / (1.0 + self.images / self._decay_images)
        self.images += closure.images
        return step

    def absolute(self, closure: Closure) -> float:
        """Return epsilon for a mini-batch, and count its images."""
        return self.against(closure.largest_curvature, closure)

    def against(self, curvature: float, closure: Closure) -> float:
        """Return epsilon for a mini-batch against a curvature that was measured along its own direction."""
        self.largest = max(curvature, _KEEP * self.largest)
        return self.relative(closure) / max(self.largest, 1e-30)

    def state(self) -> Scalars:
        """Return what the next step size depends on."""
        return {"schedule_images": self.images, "schedule_largest": self.largest}

    def restore(self, scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self.images = float(scalars["schedule_images"])
        self.largest = float(scalars["schedule_largest"])

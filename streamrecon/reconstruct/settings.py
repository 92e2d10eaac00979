"""What can be chosen about the engine, with the defaults the evidence in docs/ speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamrecon.geometry.symmetry import normalised_group
from streamrecon.optimise.methods import DECAY_IMAGES, METHODS, MethodName


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the ab initio engine; every length in shells is in Fourier pixels of the original box.

    Attributes
    ----------
    particle_diameter_angstrom : float, angstrom
        0 means 0.8 of the box.
    search_shells : int
        Rings of the global polar search (k_c).
    direction_order : int
        HEALPix n_side of the search's directions: 4 has 192, 15 degrees apart.
    in_plane_angles : int, even
        In-plane angles of the search.
    shift_range_angstrom : float, angstrom
        Particles are looked for within this distance of the box centre; 0 means 6 % of the box.
    samples : int
        Poses drawn for each image from the search's cells, and in the last round; half as many in the rounds between.
    rounds : int
        Most rounds of adaptive importance sampling after the first draw; as many are made as the band needs.
    defensive_share : float
        Share of draws made uniformly, whatever the search says.
    minimum_weight : float
        Poses below this posterior weight are not inserted.
    start_shells, settle_images : int
        k_max of the first map; images over which the annealing target falls.
    images_per_shell, settled_images_per_shell : int
        k_max may grow by one shell in that many images, before and after settling.
    maximum_resolution_angstrom : float, angstrom
        Never use finer detail; 0 means up to 0.95 of Nyquist.
    update_images : int
        The map is solved again after that many images once settled.
    search_window_images, settled_window_images : float
        Images the running sums remember before and after settling (online EM's n / rho).
    window_growth : float
        The settled window grows to this share of the images seen since settling.
    refinement_window_growth : float
        The same in refinement: particle s of n counts (s / n)^(1 / growth).
    method : str
        How the map follows the images: "online_em", running sums, or an optimiser of `streamrecon.optimise.methods`.
        While the search has not settled, some take their time: ``settle_images`` and ``images_per_shell`` are then
        multiplied by `patience`.
    step_size : float
        Of an optimiser, in its own unit; 0 takes what serves without tuning.
    step_decay_images : float
        Images after which an optimiser's steps are half as long.
    prior : "fsc", "sparse" or "car"
        What the map is solved under: the half-set FSC's signal-to-noise ratio, an exponential density, or smoothness.
    non_negative, solvent_flattening : bool
        No density below zero; nothing outside what is dense at low resolution.
    symmetry : str
        Point group (C3, D2, T, O, I ...) that is imposed once the map shows its axes; "auto": the one that the map
        shows; "C1": none.
    starts : int
        Random starts that run side by side until the best of them is known.
    threads : int
        0 means one a core.
    """

    particle_diameter_angstrom: float = 0.0
    search_shells: int = 14
    direction_order: int = 4
    in_plane_angles: int = 48
    shift_range_angstrom: float = 0.0
    samples: int = 64
    rounds: int = 4
    defensive_share: float = 0.05
    minimum_weight: float = 1e-3
    start_shells: int = 8
    settle_images: int = 2500
    images_per_shell: int = 300
    settled_images_per_shell: int = 100
    maximum_resolution_angstrom: float = 0.0
    update_images: int = 300
    search_window_images: float = 500.0
    settled_window_images: float = 1700.0
    window_growth: float = 0.6
    refinement_window_growth: float = 2.0
    method: MethodName = "online_em"
    step_size: float = 0.0
    step_decay_images: float = DECAY_IMAGES
    prior: Literal["fsc", "sparse", "car"] = "fsc"
    non_negative: bool = False
    solvent_flattening: bool = False
    symmetry: str = "C1"
    starts: int = 2
    threads: int = 0

    @property
    def patience(self) -> float:
        """Return how many times more images than the default the method's search for poses needs."""
        return METHODS[self.method].patience

    def __post_init__(self) -> None:
        order = self.direction_order
        checks = {
            "particle_diameter_angstrom must not be negative": self.particle_diameter_angstrom >= 0,
            "search_shells must be at least 4": self.search_shells >= 4,
            "direction_order must be a power of two from 1 to 32": 1 <= order <= 32 and order & (order - 1) == 0,
            "in_plane_angles must be an even number of at least 4": self.in_plane_angles >= 4
            and self.in_plane_angles % 2 == 0,
            "shift_range_angstrom must not be negative": self.shift_range_angstrom >= 0,
            "samples must be at least 4": self.samples >= 4,
            "rounds must be at least 1": self.rounds >= 1,
            "defensive_share must lie between 0 and 0.5": 0 <= self.defensive_share <= 0.5,
            "minimum_weight must lie between 0 and 0.1": 0 <= self.minimum_weight <= 0.1,
            "start_shells must be at least 2": self.start_shells >= 2,
            "settle_images must be at least 1": self.settle_images >= 1,
            "images_per_shell must be at least 1": self.images_per_shell >= 1,
            "settled_images_per_shell must be at least 1": self.settled_images_per_shell >= 1,
            "maximum_resolution_angstrom must not be negative": self.maximum_resolution_angstrom >= 0,
            "update_images must be at least 1": self.update_images >= 1,
            "search_window_images must be at least 1": self.search_window_images >= 1,
            "settled_window_images must be at least 1": self.settled_window_images >= 1,
            "window_growth must not be negative": self.window_growth >= 0,
            "refinement_window_growth must not be negative": self.refinement_window_growth >= 0,
            "prior must be fsc, sparse or car": self.prior in ("fsc", "sparse", "car"),
            f"method must be one of {', '.join(METHODS)}": self.method in METHODS,
            "step_size must not be negative": self.step_size >= 0,
            "step_decay_images must be positive": self.step_decay_images > 0,
            'prior must be "fsc", symmetry "C1", and non_negative and solvent_flattening false where method is not '
            '"online_em"': (
                self.method == "online_em"
                or (
                    (self.prior, self.symmetry.upper()) == ("fsc", "C1")
                    and not self.non_negative
                    and not self.solvent_flattening
                )
            ),
            "starts must lie between 1 and 8": 1 <= self.starts <= 8,
            "threads must not be negative": self.threads >= 0,
        }
        try:
            if self.symmetry != "auto":
                object.__setattr__(self, "symmetry", normalised_group(self.symmetry))
        except ValueError as error:
            checks[f"symmetry: {error}, or auto"] = False
        wrong = [text for text, good in checks.items() if not good]
        if wrong:
            raise ValueError("; ".join(wrong))

"""What is to be run, from a TOML file; every quantity that a figure depends on is in it."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamrecon.errors import ConfigError

PLANS = ("quick", "published", "sampling", "full")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """The problem: projections of one specimen, 1E79 unless a file is named."""

    specimen: str = Field(default="", description="PDB, mmCIF or MRC file; empty: the bundled F1-ATPase")
    box_size: int = Field(default=64, ge=32, multiple_of=2)
    box_angstrom: float = Field(default=204.8, gt=0)
    snr: float = Field(default=0.1, gt=0)
    mini_batch: int = Field(default=100, ge=10)
    seed: int = Field(default=1, ge=0)

    @property
    def pixel_size_angstrom(self) -> float:
        """Return the pixel size, angstrom."""
        return self.box_angstrom / self.box_size


class Tuning(_Section):
    """Step sizes tried for each method, on images of their own; the best by held-out log-likelihood is used."""

    images: int = Field(default=2000, ge=100)
    factors: tuple[float, ...] = (0.25, 1.0, 4.0)
    methods: tuple[str, ...] = ()


class Stream(_Section):
    """Methods side by side on the same images from the same random start (table and curves)."""

    images: int = Field(default=5000, ge=100)
    methods: tuple[str, ...] = ("online_em",)
    checkpoints: tuple[int, ...] = (1000, 5000)
    held_out_images: int = Field(default=200, ge=10)
    held_out_shells: int = Field(default=20, ge=4)
    peer_passes: int = Field(default=5, ge=1)
    peers: tuple[Literal["em", "projection_matching"], ...] = ()


class Starts(_Section):
    """One pass of the stream against several of the batch methods, from random starts and from a good one."""

    starts: int = Field(default=20, ge=1)
    stream_images: int = Field(default=0, ge=0, description="the streaming methods' images in one pass; 0: as many")
    good_starts: int = Field(default=20, ge=0)
    images: int = Field(default=2000, ge=100)
    box_size: int = Field(default=48, ge=32, multiple_of=2)
    snr: float = Field(default=0.1, gt=0)
    passes: int = Field(default=5, ge=1)
    search_shells: int = Field(default=14, ge=4)
    in_plane_angles: int = Field(default=48, ge=8, multiple_of=2)
    settle_images: int = Field(default=2500, ge=1, description="the streaming methods' annealing")
    methods: tuple[str, ...] = ("online_em", "em", "projection_matching")
    kinds: tuple[Literal["random", "good"], ...] = ("random", "good")
    tau2: Literal["map", "fsc"] = "fsc"


class Sensitivity(_Section):
    """One quantity changed at a time: step size, mini-batch, signal-to-noise ratio."""

    images: int = Field(default=3000, ge=100)
    methods: tuple[str, ...] = ("online_em",)
    step_factors: tuple[float, ...] = (0.25, 1.0, 4.0)
    mini_batches: tuple[int, ...] = (25, 100, 400)
    snrs: tuple[float, ...] = (0.03, 0.1, 0.3)


class Sampling(_Section):
    """Importance sampling against full quadrature, at every band."""

    bands: tuple[int, ...] = (8, 14, 20, 26)
    images: int = Field(default=16, ge=2)
    images_at: dict[str, int] = Field(default={}, description="of single bands, where a full grid is very large")
    grid_step: float = Field(default=0.5, gt=0, description="of a resolution element, at the rim and in shift")
    twice_shells: int = Field(default=26, description="bands up to here are measured on a second full grid as well")
    map_images: int = Field(default=3000, ge=200, description="behind the map that is sampled against")


class Priors(_Section):
    """The priors of density, each on the same images."""

    images: int = Field(default=3000, ge=100)
    kinds: tuple[Literal["fsc", "sparse", "car", "non_negative", "solvent_flattening"], ...] = (
        "fsc", "sparse", "car", "non_negative", "solvent_flattening",
    )  # fmt: skip


class Real(_Section):
    """Real particles with known poses: what each method makes of them."""

    particles: str = Field(description="STAR file with poses")
    steps: int = Field(default=30, ge=1)
    methods: tuple[str, ...] = ()
    peers: tuple[Literal["em", "projection_matching"], ...] = ("em", "projection_matching")
    passes: int = Field(default=5, ge=1)
    shells: int = Field(default=10, ge=4)


class Relion(_Section):
    """RELION's own program, where it is installed."""

    images: int = Field(default=1000, ge=50)
    box_size: int = Field(default=48, ge=32, multiple_of=2)
    mode: Literal["sgd", "em"] = "sgd"
    iterations: tuple[int, int, int] = (10, 10, 5)
    limit_seconds: float = Field(default=600.0, gt=0)


class Plan(_Section):
    """A plan; sections that are missing are not run."""

    name: str
    threads: int = Field(default=1, ge=1)
    data: Data = Data()
    tuning: Tuning | None = None
    stream: Stream | None = None
    starts: Starts | None = None
    sensitivity: Sensitivity | None = None
    sampling: Sampling | None = None
    priors: Priors | None = None
    real: Real | None = None
    relion: Relion | None = None
    step_factors: dict[str, float] = Field(default={}, description="a method's step size over its default")


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    ConfigError
        It is no TOML, or says something that cannot be; every error is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: expected a plan, found {error.strerror}; name a TOML file with -c") from error
    return _parsed(text, str(path))


def bundled_plan(name: str) -> Plan:
    """Return one of `PLANS`."""
    text = (files("streamrecon.experiments") / "plans" / f"{name}.toml").read_text(encoding="utf-8")
    return _parsed(text, f"{name}.toml")


def _parsed(text: str, where: str) -> Plan:
    try:
        return Plan.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: expected TOML, found an error: {error}; mend it") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors())
        raise ConfigError(f"{where}: {wrong}; mend these keys") from error

"""The models of config.toml: one class a table, the defaults live here (and, for the engine, in EngineSettings)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from streamrecon.config.addresses import check_port, shared_address
from streamrecon.config.notify import NotifyConfig
from streamrecon.geometry.symmetry import normalised_group
from streamrecon.reconstruct.settings import EngineSettings

_FROZEN = ConfigDict(extra="forbid", frozen=True)
Endpoint = Annotated[str, Field(pattern=r"^(tcp://[^:]+:\d+|ipc://.+)$"), AfterValidator(check_port)]
HostPort = Annotated[str, Field(pattern=r"^[^:/\s]+:\d+$"), AfterValidator(check_port)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class SessionConfig(BaseModel):
    """[session]: what this session is called and where it writes."""

    model_config = _FROZEN
    name: Annotated[str, Field(min_length=1, max_length=200)] = "session"
    output_dir: Path = Path("streamrecon-out")
    seed: Annotated[int, Field(ge=0)] = 0


class WatchConfig(BaseModel):
    """[watch]: where particles appear and when a file counts as finished."""

    model_config = _FROZEN
    root: Path = Path("incoming")
    manifest_patterns: tuple[str, ...] = ("*.star", "*.cs")
    mode: Literal["auto", "events", "polling"] = "auto"
    settle_seconds: NonNegative = 2.0
    scan_seconds: Positive = 10.0
    orphan_seconds: Positive = 600.0


class InputConfig(BaseModel):
    """[input]: how the images are to be read."""

    model_config = _FROZEN
    contrast: Literal["auto", "protein_white", "protein_black"] = "auto"
    normalize: bool = True
    ctf: Literal["require", "none"] = "require"


class FeedConfig(BaseModel):
    """[feed]: how batches travel from ingest to the worker."""

    model_config = _FROZEN
    endpoint: Endpoint = "tcp://127.0.0.1:8760"
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 100
    batch_wait_seconds: Positive = 5.0
    credits: Annotated[int, Field(ge=1, le=1000)] = 4
    lease_seconds: Positive = 120.0


class ComputeConfig(BaseModel):
    """[compute]: the device that the engine runs on."""

    model_config = _FROZEN
    backend: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=64)] = (0,)
    patience_seconds: Positive = 120.0
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    cube_precision: Literal["single", "half"] = "single"
    tf32: bool = False


class RefinementConfig(BaseModel):
    """[refinement]: particles that are kept and visited again while the stream idles."""

    model_config = _FROZEN
    store_megabytes: Annotated[int, Field(ge=0)] = 2048
    search_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    max_sweeps: Annotated[int, Field(ge=1)] = 12
    final_sweeps: Annotated[int, Field(ge=0)] = 3


class SnapshotConfig(BaseModel):
    """[snapshot]: how often a map is written and published."""

    model_config = _FROZEN
    every_images: Annotated[int, Field(ge=1)] = 500
    every_seconds: Positive = 60.0


class CheckpointConfig(BaseModel):
    """[checkpoint]: how often the state is made durable."""

    model_config = _FROZEN
    every_seconds: Positive = 20.0
    keep: Annotated[int, Field(ge=2)] = 3


class PublishConfig(BaseModel):
    """[publish]: the sockets subscribers connect to."""

    model_config = _FROZEN
    events: Endpoint = "tcp://127.0.0.1:8761"
    volumes: Endpoint = "tcp://127.0.0.1:8762"
    snapshots: Endpoint = "tcp://127.0.0.1:8763"
    heartbeat_seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0


class ControlConfig(BaseModel):
    """[control]: the socket that a running worker takes commands on."""

    model_config = _FROZEN
    endpoint: Endpoint | Literal[""] = "tcp://127.0.0.1:8764"


class MonitorConfig(BaseModel):
    """[monitor]: the HTTP side."""

    model_config = _FROZEN
    bind: HostPort = "127.0.0.1:8750"
    page: bool = True


class SecurityConfig(BaseModel):
    """[security]: what may be reached from other hosts."""

    model_config = _FROZEN
    curve_dir: str = ""
    allow_plaintext_on_network: bool = False

    @property
    def curve_folder(self) -> Path | None:
        """Return the folder of the keys, None if CURVE is off."""
        return Path(self.curve_dir) if self.curve_dir else None


class AssessConfig(BaseModel):
    """[assess]: what is worked out of every snapshot, beside the worker's own work."""

    model_config = _FROZEN
    enabled: bool = True
    mask: Annotated[str, Field(min_length=1)] = "auto"
    symmetry: str = "C1"
    find_symmetry: bool = True
    target_angstrom: Annotated[tuple[Positive, ...], Field(max_length=8)] = (4.0, 3.0)
    every_seconds: Positive = 30.0

    @field_validator("symmetry")
    @classmethod
    def _known_group(cls, value: str) -> str:
        return normalised_group(value)


class LogConfig(BaseModel):
    """[log]: what is said on standard output."""

    model_config = _FROZEN
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Config(BaseModel):
    """The whole of config.toml."""

    model_config = _FROZEN
    session: SessionConfig = SessionConfig()
    watch: WatchConfig = WatchConfig()
    input: InputConfig = InputConfig()
    feed: FeedConfig = FeedConfig()
    engine: EngineSettings = EngineSettings()
    compute: ComputeConfig = ComputeConfig()
    refinement: RefinementConfig = RefinementConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    publish: PublishConfig = PublishConfig()
    control: ControlConfig = ControlConfig()
    monitor: MonitorConfig = MonitorConfig()
    notify: NotifyConfig = NotifyConfig()
    security: SecurityConfig = SecurityConfig()
    assess: AssessConfig = AssessConfig()
    log: LogConfig = LogConfig()

    @field_validator("engine", mode="before")
    @classmethod
    def _refuse_unknown_engine_keys(cls, value: object) -> object:
        """A standard dataclass ignores keys it does not know; a typo must not pass silently."""
        if isinstance(value, dict):
            unknown = sorted(set(value) - set(EngineSettings.__dataclass_fields__))
            if unknown:
                raise ValueError(
                    f"unknown keys {', '.join(unknown)}; known are {', '.join(EngineSettings.__dataclass_fields__)}"
                )
        return value

    @model_validator(mode="after")
    def _several_devices_add_up_sums(self) -> Config:
        if len(self.compute.devices) > 1 and self.engine.method != "online_em":
            raise ValueError(
                f'compute.devices = {list(self.compute.devices)} with engine.method = "{self.engine.method}": only the '
                'sums of "online_em" can be added up over devices; name one device, or use that method'
            )
        return self

    @model_validator(mode="after")
    def _an_address_each(self) -> Config:
        addresses = {
            "feed.endpoint": self.feed.endpoint,
            "publish.events": self.publish.events,
            "publish.volumes": self.publish.volumes,
            "publish.snapshots": self.publish.snapshots,
            "control.endpoint": self.control.endpoint,
            "monitor.bind": self.monitor.bind,
        }
        if shared := shared_address(addresses):
            one, other = shared
            raise ValueError(
                f"{one} and {other} are one address, {addresses[one]!r} and {addresses[other]!r}: give each its own"
            )
        return self

    @model_validator(mode="after")
    def _loopback_unless_said(self) -> Config:
        if not (self.security.curve_dir or not self.control.endpoint or _is_local(self.control.endpoint)):
            raise ValueError(
                f"control.endpoint = {self.control.endpoint!r} can be reached from the network, and whoever reaches it "
                "could end the session; use 127.0.0.1, or make keys with `streamrecon keygen` and set "
                "security.curve_dir (security.allow_plaintext_on_network does not open it)"
            )
        if self.security.allow_plaintext_on_network:
            return self
        guarded = {
            "feed.endpoint": self.feed.endpoint,
            "publish.events": self.publish.events,
            "publish.volumes": self.publish.volumes,
            "publish.snapshots": self.publish.snapshots,
        }
        # HTTP knows no CURVE
        endpoints = {**({} if self.security.curve_dir else guarded), "monitor.bind": self.monitor.bind}
        for key, value in endpoints.items():
            if not _is_local(value):
                curve = "make keys with `streamrecon keygen` and set security.curve_dir, " if key in guarded else ""
                raise ValueError(
                    f"{key} = {value!r} can be reached from the network without encryption; use 127.0.0.1, {curve}or "
                    "set security.allow_plaintext_on_network = true if the network is yours alone"
                )
        return self


def _is_local(address: str) -> bool:
    """Return True if only this host can reach an endpoint or host:port."""
    host = address.removeprefix("tcp://").rsplit(":", 1)[0]
    return address.startswith("ipc://") or host in ("127.0.0.1", "localhost")

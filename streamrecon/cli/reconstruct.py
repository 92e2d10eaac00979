"""``streamrecon reconstruct``: the same engine on particles that are all there already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from streamrecon.cli.exit_codes import INTERRUPTED, errors_as_exit_codes
from streamrecon.config import Config, load_config
from streamrecon.errors import ConfigError, IngestError
from streamrecon.io import (
    check_consistent,
    check_stack,
    fill_box_size,
    identity_of,
    probe_stack,
    read_images,
    read_manifest,
)
from streamrecon.particles import ParticleBatch, ParticleTable
from streamrecon.reconstruct.backproject import GivenPoses
from streamrecon.reconstruct.results import BatchResult, EngineStatus
from streamrecon.worker.engine import make_backend, make_engine
from streamrecon.worker.outputs import write_snapshot
from streamrecon.worker.preprocess import Contrast, decide_contrast, prepare, usable
from streamrecon.worker.reconstruction import STORE_NAME, Reconstruction
from streamrecon.worker.revisits import Revisits
from streamrecon.worker.search_visits import caution, not_converged

_CONTRAST_IMAGES = 500


def reconstruct(
    particles: Annotated[Path, typer.Argument(help="Particle STAR (RELION 3.0 to 5) or cryoSPARC .cs file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the maps, the FSC and the poses.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take [input], [engine] and the batch size from here.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder that the stacks' names are relative to. Default: looked for from the file upwards."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the random start. Default: session.seed, 0.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many particles.")] = None,
    passes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Look at each particle so often: first in order, then to refine its pose. Default: once; a set that "
            "ends before its map is refined, as often as that takes.",
        ),
    ] = None,
    given_poses: Annotated[
        bool, typer.Option("--given-poses", help="Search nothing: use the rotations and shifts in the file.")
    ] = False,
) -> None:
    """Reconstruct from a random start, in one pass over the particles or in several.

    A small set (fewer than some thousands) is over before its poses are sure. Its particles are then visited again
    until the search has settled and the map is refined, or until it is clear that they are too few; the last line says
    which.

    Writes volume.mrc, half_a.mrc, half_b.mrc, fsc.csv, status.json and particles.star (poses that RELION reads).
    Ctrl-C ends it early and writes what there is.

    Example: streamrecon reconstruct Extract/job012/particles.star -o out/
    """
    with errors_as_exit_codes():
        settings = load_config(config) if config is not None else Config()
        if seed is not None:
            settings = settings.model_copy(update={"session": settings.session.model_copy(update={"seed": seed})})
        if passes is not None and passes > 1 and settings.engine.method != "online_em":
            raise ConfigError(
                f'engine.method = "{settings.engine.method}" and --passes {passes}: expected one pass, as steps of an '
                'optimiser cannot be taken back when a particle is visited again; use --passes 1, or "online_em"'
            )
        if passes == 1:
            refinement = settings.refinement.model_copy(update={"store_megabytes": 0})
            settings = settings.model_copy(update={"refinement": refinement})
        base = (root or particles.resolve().parents[-1]).resolve()
        table = _checked(read_manifest(particles, base), particles)
        if limit is not None:
            table = table.select(slice(0, limit))
        output.mkdir(parents=True, exist_ok=True)
        folder = particles.resolve().parent
        if given_poses:
            _backproject(settings, table, folder, output)
            return
        interrupted = _reconstruct(settings, table, folder, output, passes)
    raise typer.Exit(INTERRUPTED if interrupted else 0)


def _checked(table: ParticleTable, manifest: Path) -> ParticleTable:
    """Check every stack against its rows, by its header only.

    Raises
    ------
    IngestError
        A stack is missing, broken or shorter than a row says, or sampled unlike the others.
    """
    probes = [probe_stack(name) for name in table.stack_names]
    for probe in probes:
        check_stack(table, manifest, probe)
    # RELION 3.0 says nothing of the box: it is the first stack's, and the others are held to it
    table = fill_box_size(table, probes[0].nx)
    for probe in probes:
        check_stack(table, manifest, probe)
    check_consistent(manifest, table, manifest, table)
    return table


def _batches(table: ParticleTable, root: Path, size: int) -> Iterator[ParticleBatch]:
    for start in range(0, len(table), size):
        part = table.select(slice(start, start + size))
        names = part.stack_names
        identities = tuple(
            identity_of(names[s], root, i)
            for s, i in zip(part.stack_number.tolist(), part.stack_index.tolist(), strict=True)
        )
        yield usable(ParticleBatch(read_images(part), part, identities))


def _reconstruct(settings: Config, table: ParticleTable, root: Path, output: Path, passes: int | None) -> bool:
    """Fold everything, with a progress bar; return whether it was interrupted."""
    console = Console(stderr=True)
    size = settings.feed.batch_size
    reconstruction = Reconstruction(settings, make_engine, output / "poses.rows")
    reconstruction.contrast = _contrast(settings, table, root)
    console.print(f"{len(table)} particles, contrast {reconstruction.contrast}; compiling kernels at first use")
    interrupted = False
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Particles", total=len(table) * (passes or 1), status="")
        try:
            for number, batch in enumerate(_batches(table, root, size)):
                try:
                    result = reconstruction.fold(number, batch)
                except IngestError as error:
                    progress.console.print(f"left out: {error}")
                    continue
                status = _engine_status(reconstruction)
                rate = len(batch) / result.step_seconds
                progress.update(task, advance=len(batch), **_fields(status, rate))
                if passes is None and _refined(status):
                    reconstruction.stop_keeping()  # one pass is enough
            if passes is None:  # nobody knows how many visits it takes
                task = progress.add_task("Visits", total=None, status="")
            for result in _visits(settings, reconstruction, passes):
                n = len(result.pose_weight)
                fields = _fields(_engine_status(reconstruction), n / result.step_seconds)
                progress.update(task, advance=n, **fields)
        except KeyboardInterrupt:
            interrupted = True
    if reconstruction.engine is None:
        raise IngestError(f"{root}: none of the {len(table)} particles could be used; see the messages above")
    snapshot = reconstruction.engine.snapshot()
    write_snapshot(output, snapshot)
    rows = reconstruction.export(output / "particles.star")
    reconstruction.close()
    (output / STORE_NAME).unlink(missing_ok=True)
    how = "posed independently" if snapshot.status.fsc_kind == "gold_standard" else "posed on one map"
    status = snapshot.status
    if settings.engine.symmetry != "C1":
        console.print(f"symmetry {status.symmetry}: {status.symmetry_reason}")
    console.print(
        f"{rows} particles, {snapshot.status.image_visits} image visits, {snapshot.resolution_angstrom:.1f} A (FSC "
        f"{snapshot.fsc_threshold} between halves {how}), stage {snapshot.status.stage}; maps and poses in {output}"
    )
    if status.stage == "searching":
        console.print(not_converged(status))
    elif but := caution(reconstruction.engine.status):
        console.print(f"beware: {but}")
    return interrupted


def _refined(status: EngineStatus) -> bool:
    """Return whether the halves are posed on their own."""
    return status.fsc_kind == "gold_standard"


def _visits(settings: Config, reconstruction: Reconstruction, passes: int | None) -> Iterator[BatchResult]:
    """Visit kept particles again: in so many passes, or until a small set's map is refined."""
    if passes is not None:
        for _ in range(passes - 1):
            yield from _sweep(reconstruction, settings.feed.batch_size)
        return
    if reconstruction.engine is None or _refined(reconstruction.engine.status):
        return
    revisits = Revisits(settings, reconstruction)
    revisits.finish()
    while revisits.wanted:
        if (result := revisits.step()) is not None:
            yield result


def _sweep(reconstruction: Reconstruction, size: int) -> Iterator[BatchResult]:
    """Visit every kept particle once more."""
    while (result := reconstruction.revisit(size)) is not None:
        yield result
    if reconstruction.store is not None:
        reconstruction.store.index.sweep += 1


def _backproject(settings: Config, table: ParticleTable, root: Path, output: Path) -> None:
    """Make the maps from the poses in the table."""
    console = Console(stderr=True)
    contrast = _contrast(settings, table, root)
    box_size, pixel_size = table.optics_groups[0].box_size, table.optics_groups[0].pixel_size_angstrom
    given = GivenPoses(settings.engine, box_size, pixel_size, make_backend(settings))
    size = settings.feed.batch_size
    for batch in track(_batches(table, root, size), "Batches", total=-(-len(table) // size), console=console):
        given.fold(prepare(settings, batch, contrast))
    snapshot = given.snapshot()
    write_snapshot(output, snapshot)
    console.print(f"{len(table)} particles at given poses, {snapshot.resolution_angstrom:.1f} A; maps in {output}")


def _contrast(settings: Config, table: ParticleTable, root: Path) -> Contrast:
    """Return the contrast of particles taken from all over the table."""
    probe = np.unique(np.linspace(0, len(table) - 1, min(len(table), _CONTRAST_IMAGES)).astype(int))
    contrast = decide_contrast(settings, [next(_batches(table.select(probe), root, len(probe)))], must=True)
    if contrast is None:
        raise RuntimeError("decide_contrast(must=True) left the contrast open")
    return contrast


def _engine_status(reconstruction: Reconstruction) -> EngineStatus:
    if reconstruction.engine is None:
        raise RuntimeError("status before the first fold")
    return reconstruction.engine.status


def _fields(status: EngineStatus, rate: float) -> dict[str, Any]:
    text = (
        f"{rate:.0f} images/s  {status.stage}  {status.resolution_angstrom:.1f} A  "
        f"ESS {status.effective_sample_size:.1f}"
    )
    return {"status": text}

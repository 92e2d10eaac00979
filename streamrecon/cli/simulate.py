"""``streamrecon simulate``: a session to practise on, with the truth beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamrecon.cli.exit_codes import INTERRUPTED, errors_as_exit_codes
from streamrecon.cli.stopping import stop_on_signals
from streamrecon.errors import ConfigError
from streamrecon.io.mrc_write import write_volume
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings
from streamrecon.simulate.specimen import density_from_map, density_from_model
from streamrecon.simulate.writer import Format, SessionWriter


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write into: what watch.root should point to. New or empty.")],
    model: Annotated[
        Path | None, typer.Option(help="Atomic model (PDB or mmCIF). Default: F1-ATPase, PDB 1E79, which is bundled.")
    ] = None,
    density: Annotated[
        Path | None, typer.Option("--map", help="MRC map to use instead of a model; protein positive.")
    ] = None,
    particles: Annotated[int, typer.Option(min=1, help="How many particles in all.")] = 5000,
    box: Annotated[int, typer.Option(min=16, max=1024, help="Side of a particle image, pixels; even.")] = 64,
    pixel_size: Annotated[float, typer.Option(min=0.1, help="Angstrom a pixel.")] = 3.2,
    snr: Annotated[
        float,
        typer.Option(
            help="Signal variance over the whole box by noise variance. Real particles: 0.01 to 0.1; inf: none."
        ),
    ] = 0.1,
    rate: Annotated[
        float, typer.Option(min=0, help="Particles a second, as a microscope gives 10 to 140. 0: as fast as possible.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    micrographs_of: Annotated[int, typer.Option(min=1, help="Particles on a micrograph, hence in a stack.")] = 50,
    file_format: Annotated[Format, typer.Option("--format", help="Lay the files out as this program does.")] = "relion",
    optics_groups: Annotated[
        int,
        typer.Option(min=1, help="Optics groups, of differing voltage or amplitude contrast; micrographs take turns."),
    ] = 2,
    defocus: Annotated[
        tuple[float, float], typer.Option(help="Range of the micrographs' defocus, angstrom, underfocus positive.")
    ] = (10_000.0, 25_000.0),
    astigmatism: Annotated[float, typer.Option(min=0, help="Defocus U - V, angstrom.")] = 300.0,
    shift: Annotated[
        float, typer.Option(min=0, help="Standard deviation of the particles' distance from the box centre, angstrom.")
    ] = 5.0,
    phase_shift: Annotated[float, typer.Option(help="Of a phase plate, degrees; 0: none.")] = 0.0,
    b_factor: Annotated[
        float, typer.Option(min=0, help="Envelope exp(-B k^2 / 4) of the microscope, angstrom^2.")
    ] = 0.0,
    preferred_views: Annotated[
        float,
        typer.Option(help="0: all views alike; 3 or more: mostly along z (a bad grid); negative: around the side."),
    ] = 0.0,
    junk: Annotated[float, typer.Option(min=0, max=1, help="Share of particles that are only noise.")] = 0.0,
    colored_noise: Annotated[bool, typer.Option(help="Noise that falls with frequency, as a detector's does.")] = False,
    truth: Annotated[
        Path | None, typer.Option(help="Folder for ground_truth.star and truth.mrc. Default: OUT-truth, beside OUT.")
    ] = None,
) -> None:
    """Write a simulated session: particle stacks and manifests that appear as from a real microscope.

    Start the daemon on the folder first, or afterwards, or while it fills. Poses, shifts and the map that the
    particles were made from go to a second folder, to compare with.

    Example: streamrecon simulate incoming --particles 5000 --rate 50
    """
    with errors_as_exit_codes():
        if box % 2:
            raise ConfigError(f"--box: expected an even number of pixels, found {box}; use {box + 1}")
        if model is not None and density is not None:
            raise ConfigError("--model and --map: expected one of the two, found both; leave one out")
        truth_folder = truth or out.absolute().with_name(out.absolute().name + "-truth")
        settings = MicroscopeSettings(
            pixel_size_angstrom=pixel_size,
            particles_per_micrograph=micrographs_of,
            snr=snr,
            defocus_range_angstrom=defocus,
            astigmatism_angstrom=astigmatism,
            shift_sigma_angstrom=shift,
            phase_shift_degrees=phase_shift,
            envelope_b_factor=b_factor,
            n_optics_groups=optics_groups,
            view_concentration=preferred_views,
            junk_fraction=junk,
            noise="colored" if colored_noise else "white",
            seed=seed,
        )
        console = Console(stderr=True)
        with console.status("Computing the specimen's density"):
            if density is not None:
                volume = density_from_map(density, box, pixel_size)
            else:
                volume = density_from_model(model, box, pixel_size)
            microscope = Microscope(volume, settings)
        stop = stop_on_signals()
        writer = SessionWriter(
            microscope, out, truth_folder, file_format=file_format, particles_per_second=rate, sleep=stop.wait
        )
        write_volume(truth_folder / "truth.mrc", volume, pixel_size)
        noise = "no noise" if math.isinf(snr) else f"SNR {snr:g}"
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(f"Particles, {noise}", total=particles)
            written = writer.run(particles, lambda done: progress.update(task, completed=done), stop.is_set)
        if stop.is_set() and written < particles:
            console.print(f"Stopped. {out} holds whole stacks and manifests only.")
            raise typer.Exit(INTERRUPTED)
        console.print(f"{written} particles in {out}, the truth about them in {truth_folder}")

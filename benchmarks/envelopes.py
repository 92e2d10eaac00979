"""Optics groups that differ in sharpness: is the difference measured, and what is the map worth for it?

F1-ATPase in two groups, one of them blurred by a B-factor, each micrograph of the one or the other in turn; seen once,
from a random start, with the groups' envelopes measured and used, and with them left out. Prints the B-factor that was
found, where the map falls below FSC 0.5 and 0.143 against the truth, and the FSC of its finest shells.

Example: python -m benchmarks.envelopes --b-factor 150 --particles 9000
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import PropertyMock, patch

import numpy as np

from benchmarks.common import Specimen, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compute.cpu import CpuBackend
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.envelope import GroupEnvelope
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings

_FINEST = slice(24, 30)  # of a box of 64: from 8.5 A on


def stream(specimen: Specimen, particles: int, snr: float, b_factor: float, seed: int) -> Iterator[ParticleBatch]:
    """Yield batches of the sharp and of the blurred group in turn."""
    microscopes = [
        Microscope(
            specimen.volume,
            MicroscopeSettings(
                pixel_size_angstrom=specimen.pixel_size_angstrom,
                particles_per_micrograph=100,
                snr=snr,
                seed=seed,
                envelope_b_factor=b,
            ),
        )
        for b in (0.0, b_factor)
    ]
    for number in range(particles // 100):
        taken = microscopes[number % 2].micrograph(number, f"stack_{number}", f"mic_{number}", 100)
        group = replace(taken.table.optics_groups[0], name=("sharp", "blurred")[number % 2])
        table = replace(taken.table, optics_groups=(group,))
        yield ParticleBatch(taken.images, table, tuple(table.identities()))


def run(specimen: Specimen, particles: int, snr: float, b_factor: float, seed: int) -> dict[str, Any]:
    """Reconstruct once."""
    pixel = specimen.pixel_size_angstrom
    engine = Engine(EngineSettings(), len(specimen.volume), pixel, CpuBackend(), seed)
    for batch in stream(specimen, particles, snr, b_factor, seed):
        engine.fold(batch)
    snapshot = engine.snapshot()
    aligned = align_volumes(specimen.volume, snapshot.volume, pixel)
    fsc = fsc_between(specimen.volume, aligned.volume, pixel)
    return {
        "B found (A^2)": snapshot.optics_groups[1].b_factor_angstrom2,
        "FSC 0.5 (A)": fsc.resolution_05_angstrom,
        "FSC 0.143 (A)": fsc.resolution_0143_angstrom,
        "reported (A)": snapshot.resolution_angstrom,
        "mean FSC of shells 24 to 29": float(fsc.fsc[_FINEST].mean()),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=9000, metavar="N")
    options.add_argument("--snr", type=float, default=0.1)
    options.add_argument("--b-factor", type=float, default=150.0, help="of the blurred group, A^2 (default: 150)")
    options.add_argument("--seed", type=int, default=3)
    chosen = options.parse_args()
    print_machine()
    arguments = (f1_atpase(), chosen.particles, chosen.snr, chosen.b_factor, chosen.seed)
    rows = [{"envelopes": "used", **run(*arguments)}]
    with patch.object(GroupEnvelope, "b_factor", new_callable=PropertyMock, return_value=np.zeros(2)):
        rows.append({"envelopes": "left out", **run(*arguments)})
    print_table(rows)
    write_json(chosen.json, {"b_factor": chosen.b_factor, "runs": rows})


if __name__ == "__main__":
    main()

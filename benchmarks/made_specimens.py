"""Specimens made from what is bundled and from ideal helices: no file is needed that the repository does not have.

They stand for kinds of particle, not for real molecules: small, in a micelle, of high symmetry.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from benchmarks.common import Specimen
from streamrecon.simulate.specimen import density_from_model

# Backbone and C-beta of a residue of an ideal alpha helix: radius, height (angstrom) and angle (degrees) about the
# axis; 1.5 angstrom and 100 degrees from one residue to the next (Pauling, Corey and Branson 1951).
_HELIX_ATOMS = {
    "N": (1.55, -0.87, -28.0), "CA": (2.29, 0.0, 0.0), "C": (1.68, 1.10, 27.0), "O": (2.03, 2.24, 20.0),
    "CB": (3.30, -0.25, -19.0),
}  # fmt: skip
_RISE, _TURN = 1.5, 100.0
_SIDE_CHAIN = 6.0  # angstrom from the axis: one atom more there gives a helix the girth of real ones
_MICELLE_HALF_AXES = (46.0, 40.0, 23.0)  # angstrom; no axis of symmetry, as with a nanodisc's belt
_CAGE_RADIUS, _CAGE_TURN = 50.0, 0.9  # angstrom; radians of a bundle's axis from the shell's circle of latitude
_HEADS = 7.0  # thickness of the head groups' layer
_HEAD_DENSITY, _TAIL_DENSITY = 0.8, 0.15  # of the protein's, over the solvent


def heterodimer(box_size: int = 64) -> Specimen:
    """Return one alpha and one beta subunit of F1-ATPase (97 kDa) in a box of 153.6 angstrom."""
    return _from_chains("F1 alpha-beta dimer, 97 kDa", ("C", "D"), box_size, 153.6)


def transporter(box_size: int = 64) -> Specimen:
    """Return fourteen ideal helices across a micelle, F1's central stalk on top of them, in a box of 179.2 angstrom."""
    rng = np.random.default_rng(2)
    helices = []
    for ring, (count, radius) in enumerate(((4, 7.0), (10, 17.0))):
        for i in range(count):
            angle = 2 * np.pi * (i + 0.25 * ring) / count + rng.normal(0.0, 0.08)
            place = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.normal(0.0, 2.0)])
            tilt = Rotation.from_euler("ZYZ", [angle, np.deg2rad(rng.uniform(5.0, 25.0)), rng.uniform(0, 2 * np.pi)])
            helices.append(_helix(int(rng.integers(22, 34))) @ tilt.as_matrix().T + place)
    structure = _structure(helices)
    stalk = _bundled("GHI")
    positions = np.array([cra.atom.pos.tolist() for cra in stalk[0].all()])
    # 1E79's stalk lies along x; its thin end goes into the membrane's outer side
    turn = Rotation.from_euler("Y", 90, degrees=True).as_matrix()
    turned = (positions - positions.mean(axis=0)) @ turn.T
    turned += np.array([6.0, 0.0, 14.0 - np.percentile(turned[:, 2], 2)])
    for cra, place in zip(stalk[0].all(), turned, strict=True):
        cra.atom.pos = gemmi.Position(*place)
    for chain in stalk[0]:
        structure[0].add_chain(chain)
    side = 179.2
    volume = _density(structure, box_size, side)
    center = structure[0].calculate_center_of_mass().tolist()
    return Specimen("transporter in a micelle", volume + _micelle(volume, side, np.array(center)), side / box_size, 1)


def cage(box_size: int = 64) -> Specimen:
    """Return a ferritin-like shell, octahedral: 24 bundles of four helices, in a box of 179.2 angstrom."""
    bundle = []
    for i in range(4):
        helix = _helix(26) * ([1, 1, 1] if i % 2 else [1, -1, -1])
        bundle.append(helix + np.array([9.6 * (i // 2), 9.6 * (i in (1, 2)), 0.0]))
    bundle.append(_helix(12) @ Rotation.from_euler("Y", 60, degrees=True).as_matrix().T + np.array([5.0, 5.0, 24.0]))
    unit = [part - np.concatenate(bundle).mean(axis=0) for part in bundle]
    # lying on the sphere, away from every axis of symmetry
    out = np.array([0.80, 0.52, 0.22]) / np.linalg.norm([0.80, 0.52, 0.22])
    east = np.cross([0.0, 0.0, 1.0], out) / np.linalg.norm(np.cross([0.0, 0.0, 1.0], out))
    along = np.cos(_CAGE_TURN) * east + np.sin(_CAGE_TURN) * np.cross(out, east)
    lie = np.stack([out, np.cross(along, out), along], axis=1)
    placed = [part @ lie.T + _CAGE_RADIUS * out for part in unit]
    copies = [part @ turn.T for turn in Rotation.create_group("O").as_matrix() for part in placed]
    side = 179.2
    return Specimen("ferritin-like cage (O)", _density(_structure(copies), box_size, side), side / box_size, 24)


def _helix(residues: int) -> NDArray[np.float64]:
    """Return an ideal helix along z, centred: (residues, 6 atoms, 3)."""
    number = np.arange(residues)[:, None]
    parts = np.array([*_HELIX_ATOMS.values(), (_SIDE_CHAIN, -0.5, -30.0)])
    angle = np.deg2rad(parts[:, 2] + _TURN * number)
    height = parts[:, 1] + _RISE * (number - (residues - 1) / 2)
    return np.stack([parts[:, 0] * np.cos(angle), parts[:, 0] * np.sin(angle), height], axis=2)


def _structure(helices: Iterable[NDArray[np.float64]]) -> gemmi.Structure:
    """Return a structure with a chain of alanine-like residues for each helix."""
    structure = gemmi.Structure()
    model = gemmi.Model(1)
    elements = ("N", "C", "C", "O", "C", "C")
    names = (*_HELIX_ATOMS, "CG")
    for number, helix in enumerate(helices):
        chain = gemmi.Chain(f"H{number}")
        for i, places in enumerate(helix):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "LEU", gemmi.SeqId(i + 1, " ")
            for name, element, place in zip(names, elements, places, strict=True):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.pos = name, gemmi.Element(element), gemmi.Position(*place)
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    return structure


def _bundled(chains: Sequence[str]) -> gemmi.Structure:
    """Return those chains of the bundled 1E79."""
    with as_file(files("streamrecon.simulate") / "1e79.pdb.gz") as path:
        structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    structure.remove_waters()
    for name in [chain.name for chain in structure[0]]:
        if name not in chains:
            structure[0].remove_chain(name)
    return structure


def _from_chains(name: str, chains: Sequence[str], box_size: int, side: float) -> Specimen:
    return Specimen(name, _density(_bundled(chains), box_size, side), side / box_size, 1)


def _density(structure: gemmi.Structure, box_size: int, side: float) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, user_api="blas"):
        path = Path(folder) / "made.cif"
        structure.make_mmcif_document().write_file(str(path))
        return density_from_model(path, box_size, side / box_size)


def _micelle(protein: NDArray[np.float32], side: float, center: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a detergent belt around the membrane's middle, which is z = 0 of the model: dense heads, light tails.

    ``center`` is the model's centre of mass, which the density has in the middle of the box.
    """
    box = len(protein)
    voxel = side / box
    axis = (np.arange(box) - box // 2) * voxel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    place = (x + center[0], y + center[1], z + center[2])

    def inside(shrunk: float) -> NDArray[np.bool_]:
        scaled = [(p / (half - shrunk)) ** 2 for p, half in zip(place, _MICELLE_HALF_AXES, strict=True)]
        return np.asarray(scaled[0] + scaled[1] + scaled[2] < 1)

    dense = gaussian_filter(protein, 4.0 / voxel)
    is_protein = dense > 0.25 * dense.max()
    belt = np.where(inside(_HEADS), _TAIL_DENSITY, _HEAD_DENSITY) * inside(0.0) * ~is_protein
    level = float(protein[is_protein].mean())
    return np.asarray(gaussian_filter(belt * level, 3.0 / voxel), np.float32)

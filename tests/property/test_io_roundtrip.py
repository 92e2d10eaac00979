from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.errors import IngestError
from streamrecon.geometry.rotation import angular_distance_degrees, rotation_from_quaternion
from streamrecon.io import probe_stack, read_cs, read_sections, read_star, write_cs, write_stack, write_star
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

# any character but those no file name or no line can hold
NAMES = st.text(
    st.characters(exclude_characters="\0\n\r\t\x0b\x0c", exclude_categories=("Cc", "Zl", "Zp", "Cs")),
    min_size=1,
    max_size=20,
)
GROUPS = st.builds(
    OpticsGroup,
    name=st.just("g"),
    voltage_kilovolt=st.sampled_from([100.0, 200.0, 300.0]),
    spherical_aberration_millimeter=st.sampled_from([0.01, 2.7]),
    amplitude_contrast=st.sampled_from([0.07, 0.1]),
    pixel_size_angstrom=st.floats(0.5, 5).map(lambda x: round(x, 4)),
    box_size=st.sampled_from([32, 64]),
)


@st.composite
def tables(draw: st.DrawFn) -> ParticleTable:
    n = draw(st.integers(1, 8))
    groups = tuple(
        draw(st.lists(GROUPS, min_size=1, max_size=3, unique_by=lambda g: (g.voltage_kilovolt, g.pixel_size_angstrom)))
    )
    # a name both kinds of quotation mark occur in cannot be written in a line of a STAR file
    names = draw(
        st.lists(
            NAMES.filter(lambda s: not ('"' in s and "'" in s) and s == s.strip() and "@" not in s and ">" not in s),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    quaternion = rng.standard_normal((n, 4))
    stack_number = np.resize(np.arange(len(names)), n).astype(np.int32)
    return ParticleTable(
        optics_groups=groups,
        stack_names=tuple(names),
        optics_group_index=rng.integers(0, len(groups), n, np.int32),
        stack_number=stack_number,
        stack_index=rng.integers(0, 10**6, n, np.int32),
        defocus_u_angstrom=rng.uniform(5000, 30000, n).astype(np.float32),
        defocus_v_angstrom=rng.uniform(5000, 30000, n).astype(np.float32),
        astigmatism_angle_degrees=rng.uniform(-90, 90, n).astype(np.float32),
        phase_shift_degrees=rng.uniform(0, 180, n).astype(np.float32),
        rotation=rotation_from_quaternion(quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).astype(
            np.float32
        ),
        shift_angstrom=rng.normal(0, 10, (n, 2)).astype(np.float32),
    )


@given(tables())
@settings(max_examples=60, deadline=None)
def test_star_and_cs_give_back_what_was_written(table: ParticleTable) -> None:
    with TemporaryDirectory() as folder:
        star, cs = Path(folder) / "p.star", Path(folder) / "p.cs"
        write_star(star, table, rotation=table.rotation, shift_angstrom=table.shift_angstrom)
        write_cs(cs, table, rotation=table.rotation, shift_angstrom=table.shift_angstrom)
        for back in (read_star(star), read_cs(cs)):
            assert back.identities() == table.identities()
            assert angular_distance_degrees(back.rotation, table.rotation).max() < 0.1
            np.testing.assert_allclose(back.shift_angstrom, table.shift_angstrom, atol=1e-4)
            np.testing.assert_allclose(back.defocus_u_angstrom, table.defocus_u_angstrom, atol=1e-3)
            np.testing.assert_allclose(back.ctf_coefficients(), table.ctf_coefficients(), rtol=1e-4, atol=0.1)
            for row in range(len(table)):
                was = table.optics_groups[table.optics_group_index[row]]
                now = back.optics_groups[back.optics_group_index[row]]
                assert (was.voltage_kilovolt, was.box_size) == (now.voltage_kilovolt, now.box_size)
                assert abs(was.pixel_size_angstrom - now.pixel_size_angstrom) < 1e-5


@given(st.binary(max_size=1500), st.integers(0, 1023), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_no_bytes_make_a_reader_fail_in_another_way(junk: bytes, offset: int, seed: int) -> None:
    """Whatever a file holds, the answer is a value or an IngestError."""
    images = np.random.default_rng(seed).standard_normal((3, 4, 4)).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "s.mrcs"
        write_stack(path, images, 1.5)
        raw = bytearray(path.read_bytes())
        raw[offset : offset + len(junk)] = junk
        for content in (bytes(raw), junk):
            path.write_bytes(content)
            for read in (probe_stack, lambda p: read_sections(p, [2]), read_star, read_cs):
                with suppress(IngestError):
                    read(path)


@given(st.lists(st.integers(0, 19), max_size=40))
@settings(max_examples=50, deadline=None)
def test_sections_come_in_the_order_asked_for(indices: list[int]) -> None:
    images = np.arange(20, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32)
    with TemporaryDirectory() as folder:
        write_stack(Path(folder) / "s.mrcs", images, 1.0)
        assert read_sections(Path(folder) / "s.mrcs", indices)[:, 0, 0].tolist() == indices

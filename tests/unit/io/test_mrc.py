import os
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from streamrecon.errors import IngestError, StackCorrupt, StackIncomplete, UnsupportedFormat
from streamrecon.io import (
    StackWriter,
    check_complete,
    mrc,
    probe_stack,
    read_sections,
    read_volume,
    write_stack,
    write_volume,
)

DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def raw_stack(
    mode: int, order: str, data: np.ndarray, *, stamp: bytes, extended: bytes = b"", pixel: float = 1.5
) -> bytes:
    """An MRC file packed field by field from the MRC2014 document, without the code under test or mrcfile."""
    nz, ny, nx = data.shape
    header = bytearray(1024)
    struct.pack_into(order + "10i", header, 0, nx, ny, nz, mode, 0, 0, 0, nx, ny, nz)
    struct.pack_into(order + "6f", header, 40, nx * pixel, ny * pixel, nz * pixel, 90, 90, 90)
    struct.pack_into(order + "3i", header, 64, 1, 2, 3)
    struct.pack_into(order + "i", header, 92, len(extended))
    header[208:212] = b"MAP "
    header[212:216] = stamp
    return bytes(header) + extended + data.astype(order + DTYPES[mode]).tobytes()


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 100, (7, 6, 8)).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("stamp", [b"\x44\x44\0\0", b"\x44\x41\0\0", b"\x11\x11\0\0", b"\0\0\0\0"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", sorted(DTYPES))
def test_reads_every_mode_in_both_byte_orders_whatever_the_stamp(
    tmp_path: Path, images: np.ndarray, mode: int, order: str, stamp: bytes
) -> None:
    path = tmp_path / "stack.mrcs"
    path.write_bytes(raw_stack(mode, order, images, stamp=stamp, extended=b"E" * 160))
    probe = probe_stack(path)
    assert (probe.mode, probe.byte_order) == (mode, order)
    assert (probe.nx, probe.ny, probe.nz) == (8, 6, 7)
    assert probe.header_bytes == 1184
    assert probe.expected_bytes == probe.actual_bytes == path.stat().st_size
    assert probe.pixel_size_angstrom == 1.5
    check_complete(probe)
    indices = [6, 0, 1, 1, 4]
    np.testing.assert_array_equal(read_sections(path, indices), images[indices])


def test_no_section_is_an_empty_batch(tmp_path: Path, images: np.ndarray) -> None:
    write_stack(tmp_path / "s.mrcs", images, 1.0)
    assert read_sections(tmp_path / "s.mrcs", []).shape == (0, 6, 8)


def test_a_stack_that_is_still_growing(tmp_path: Path, images: np.ndarray) -> None:
    whole = raw_stack(2, "<", images, stamp=b"\x44\x44\0\0")
    path = tmp_path / "stack.mrcs"
    for size in (0, 500, 1023):
        path.write_bytes(whole[:size])
        with pytest.raises(StackIncomplete, match=rf"expected an MRC header of 1024 bytes, found {size}"):
            probe_stack(path)
    path.write_bytes(b"\0" * 4000)
    with pytest.raises(StackIncomplete, match="zero bytes"):
        probe_stack(path)
    cut = 1024 + 3 * 192 + 5
    path.write_bytes(whole[:cut])
    probe = probe_stack(path)
    assert not probe.is_complete
    with pytest.raises(StackIncomplete, match=f"shorter.*expected {len(whole)} bytes.*found {cut}"):
        check_complete(probe)
    # what is there can be read, what is not cannot
    np.testing.assert_array_equal(read_sections(path, [2, 0]), images[[2, 0]])
    with pytest.raises(StackIncomplete, match="end of the file"):
        read_sections(path, [3])
    path.write_bytes(whole + b"x")
    with pytest.raises(StackIncomplete, match="longer"):
        check_complete(probe_stack(path))


def test_a_section_beyond_the_count_is_waited_for(tmp_path: Path, images: np.ndarray) -> None:
    write_stack(tmp_path / "s.mrcs", images, 1.0)
    with pytest.raises(StackIncomplete, match="section 8 was asked for, the header counts 7"):
        read_sections(tmp_path / "s.mrcs", [0, 7])
    with pytest.raises(IngestError, match="section -1"):
        read_sections(tmp_path / "s.mrcs", [-1])


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, -5), (4, 0), (0, 40_000), (8, -1), (12, -3), (8, 2_000_000_000), (92, -1), (92, 2**30 + 1)],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, images: np.ndarray, offset: int, value: int) -> None:
    raw = bytearray(raw_stack(2, "<", images, stamp=b"\x44\x44\0\0"))
    struct.pack_into("<i", raw, offset, value)
    path = tmp_path / "stack.mrcs"
    path.write_bytes(raw)
    with pytest.raises(StackCorrupt, match=r"stack\.mrcs: expected"):
        probe_stack(path)


@pytest.mark.parametrize("mode", [3, 4, 101, 7])
def test_modes_that_are_not_images_we_know(tmp_path: Path, images: np.ndarray, mode: int) -> None:
    raw = bytearray(raw_stack(2, "<", images, stamp=b"\x44\x44\0\0"))
    struct.pack_into("<i", raw, 12, mode)
    path = tmp_path / "stack.mrcs"
    path.write_bytes(raw)
    with pytest.raises(UnsupportedFormat, match=f"found mode {mode}"):
        probe_stack(path)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="found nothing"):
        probe_stack(tmp_path / "gone.mrcs")
    with pytest.raises(StackCorrupt, match="a folder or a device"):
        probe_stack(tmp_path)
    os.mkfifo(tmp_path / "pipe.mrcs")
    with pytest.raises(StackCorrupt, match="a folder or a device"):
        probe_stack(tmp_path / "pipe.mrcs")
    (tmp_path / "text.mrcs").write_text("no map at all. " * 100)
    with pytest.raises(StackCorrupt, match="make no sense"):
        probe_stack(tmp_path / "text.mrcs")


@pytest.mark.filterwarnings("error")
def test_a_map_is_what_mrcfile_reads(tmp_path: Path, rng: np.random.Generator) -> None:
    volume = rng.standard_normal((4, 6, 8)).astype(np.float32)
    path = tmp_path / "map.mrc"
    write_volume(path, volume, 1.31)
    assert mrcfile.validate(path)
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, volume)
        assert file.is_volume()
        assert file.voxel_size.tolist() == pytest.approx((1.31, 1.31, 1.31))
        assert (file.header.nxstart, file.header.nystart, file.header.nzstart) == (0, 0, 0)
        assert file.header.origin.tolist() == (0, 0, 0)
        assert file.header.dmin == volume.min()
        assert file.header.dmax == volume.max()
        assert file.header.dmean == pytest.approx(volume.mean(), abs=1e-6)
        assert file.header.rms == pytest.approx(volume.std(), rel=1e-5)
    back, voxel_size = read_volume(path)
    np.testing.assert_array_equal(back, volume)
    assert voxel_size == 1.31


def test_the_same_map_gives_the_same_bytes(tmp_path: Path) -> None:
    write_volume(tmp_path / "1.mrc", np.ones((4, 4, 4)), 2.0)
    write_volume(tmp_path / "2.mrc", np.ones((4, 4, 4)), 2.0)
    assert (tmp_path / "1.mrc").read_bytes() == (tmp_path / "2.mrc").read_bytes()


def test_axes_in_another_order_are_put_right(tmp_path: Path, rng: np.random.Generator) -> None:
    volume = rng.standard_normal((3, 4, 5)).astype(np.float32)  # (z, y, x)
    stored = volume.transpose(2, 0, 1)  # columns y, rows z, sections x
    raw = bytearray(raw_stack(2, "<", stored, stamp=b"\x44\x44\0\0"))
    struct.pack_into("<3i", raw, 64, 2, 3, 1)
    struct.pack_into("<3i", raw, 28, 5, 4, 3)  # mx, my, mz belong to x, y, z
    struct.pack_into("<3f", raw, 40, 10, 8, 6)
    path = tmp_path / "map.mrc"
    path.write_bytes(raw)
    back, voxel_size = read_volume(path)
    np.testing.assert_array_equal(back, volume)
    assert voxel_size == 2.0


@pytest.mark.parametrize(("cell", "message"), [((0, 0, 0), "voxel size"), ((8, 6, 14), "cubic")])
def test_a_map_needs_cubic_voxels(tmp_path: Path, images: np.ndarray, cell: tuple[int, ...], message: str) -> None:
    raw = bytearray(raw_stack(2, "<", images, stamp=b"\x44\x44\0\0"))
    struct.pack_into("<3f", raw, 40, *cell)
    (tmp_path / "map.mrc").write_bytes(raw)
    with pytest.raises(UnsupportedFormat, match=message):
        read_volume(tmp_path / "map.mrc")


@pytest.mark.parametrize("mode", sorted(DTYPES))
def test_a_written_stack_is_what_mrcfile_reads(tmp_path: Path, images: np.ndarray, mode: int) -> None:
    path = tmp_path / "stack.mrcs"
    write_stack(path, images, 3.2, mode=mode)
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, images)
        assert file.header.mode == mode
        assert file.header.dmin == images.min()
        assert file.header.rms == pytest.approx(images.std(), rel=1e-6)
        assert file.voxel_size.x == pytest.approx(3.2)
    # mrcfile sums float16 in float16 when it validates, and overflows
    assert mode == 12 or mrcfile.validate(path)


def test_integer_modes_round_and_clip(tmp_path: Path) -> None:
    write_stack(tmp_path / "s.mrcs", np.array([[[-300.0, 1.6, 300.0, 0.0]]]), 1.0, mode=0)
    assert read_sections(tmp_path / "s.mrcs", [0]).ravel().tolist() == [-128, 2, 127, 0]


def test_a_stack_in_the_making_is_seen_as_relion_shows_it(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "stack.mrcs"
    with StackWriter(path, 7, (6, 8), 1.0, growing_header=True) as writer:
        with pytest.raises(StackIncomplete, match="counts none"):
            probe_stack(path)
        writer.append(images[:3])
        probe = probe_stack(path)
        assert (probe.nz, probe.is_complete) == (3, True)
        writer.append(images[3:])
        with pytest.raises(ValueError, match="cannot take"):
            writer.append(images[:1])
    np.testing.assert_array_equal(read_sections(path, range(7)), images)


def test_a_stack_in_the_making_is_too_short_when_the_count_comes_first(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "stack.mrcs"
    with StackWriter(path, 7, (6, 8), 1.0) as writer:
        writer.append(images[:3])
        probe = probe_stack(path)
        assert (probe.nz, probe.is_complete) == (7, False)
        writer.append(images[3:])
    check_complete(probe_stack(path))


def test_a_header_that_claims_terabytes_costs_no_memory(tmp_path: Path) -> None:
    """The claim is held against the file's length before anything is allocated."""
    header = np.zeros(256, "<i4")
    header[:4] = 32768, 32768, 50_000_000, 2
    header[7:10] = 1
    header[10:13] = np.ones(3, "<f4").view("<i4")
    path = tmp_path / "huge.mrcs"
    path.write_bytes(header.tobytes() + bytes(1000))
    with pytest.raises(StackIncomplete, match="end of the file"):
        read_sections(path, [49_999_999])
    with pytest.raises(StackIncomplete, match="50000000 sections"):
        read_volume(path)


class TestSignature:
    """A file that must be as it was examined."""

    def signature(self, path):
        status = path.stat()
        return status.st_size, status.st_mtime_ns

    def test_as_it_was(self, tmp_path):
        path = tmp_path / "s.mrcs"
        images = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
        write_stack(path, images, 1.0)
        np.testing.assert_array_equal(read_sections(path, [1], signature=self.signature(path)), images[[1]])

    @pytest.mark.parametrize(("more_bytes", "more_ns"), [(1, 0), (0, 1)])
    def test_another(self, tmp_path, more_bytes, more_ns):
        path = tmp_path / "s.mrcs"
        write_stack(path, np.ones((3, 4, 4), np.float32), 1.0)
        size, mtime_ns = self.signature(path)
        with pytest.raises(StackIncomplete, match="as it was examined"):
            read_sections(path, [1], signature=(size + more_bytes, mtime_ns + more_ns))

    def test_changed_while_it_is_read(self, tmp_path, monkeypatch):
        path = tmp_path / "s.mrcs"
        write_stack(path, np.ones((3, 4, 4), np.float32), 1.0)
        signature = self.signature(path)
        read_block = mrc._read_block

        def reading(*arguments):
            block = read_block(*arguments)
            os.utime(path, ns=(0, signature[1] + 1))
            return block

        monkeypatch.setattr(mrc, "_read_block", reading)
        with pytest.raises(StackIncomplete, match="as it was examined"):
            read_sections(path, [1], signature=signature)

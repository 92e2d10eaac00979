"""Writing MRC maps and stacks that RELION and cryoSPARC read as they are."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import mrcfile
import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from streamrecon.io.atomic import atomic_path

StackMode = Literal[0, 1, 2, 6, 12]
_DTYPES: dict[int, str] = {0: "<i1", 1: "<i2", 2: "<f4", 6: "<u2", 12: "<f2"}
_LABEL = b"streamrecon"


def write_volume(path: Path | str, volume: NDArray[np.floating], voxel_size_angstrom: float) -> None:
    """Write a map, mode 2, atomically.

    Parameters
    ----------
    path : Path or str
    volume : ndarray, (z, y, x)
    voxel_size_angstrom : float

    Notes
    -----
    Origin and start fields are zero, as RELION and cryoSPARC write and expect them. The same map gives the
    same bytes: mrcfile's label with the time of day is replaced.
    """
    with atomic_path(path) as temporary, mrcfile.new(temporary) as file:
        file.set_data(np.ascontiguousarray(volume, np.float32))
        file.set_volume()
        file.voxel_size = voxel_size_angstrom
        file.header.label[0] = _LABEL


def volume_bytes(volume: NDArray[np.floating], voxel_size_angstrom: float) -> bytes:
    """Return a map (z, y, x) as the bytes of an MRC file, mode 2, with its statistics; for sending."""
    data = np.ascontiguousarray(volume, "<f4")
    nz, ny, nx = data.shape
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["nx"], header["ny"], header["nz"] = nx, ny, nz
    header["mx"], header["my"], header["mz"] = nx, ny, nz
    header["mode"] = 2
    header["cella"] = tuple(n * voxel_size_angstrom for n in (nx, ny, nz))
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"] = 1  # a volume, not a stack
    header["map"], header["machst"] = b"MAP ", [0x44, 0x44, 0, 0]
    header["nversion"] = 20141
    header["dmin"], header["dmax"], header["dmean"] = data.min(), data.max(), data.mean(dtype=np.float64)
    header["rms"] = data.std(dtype=np.float64)
    header["nlabl"] = 1
    header["label"][0] = _LABEL
    return header.tobytes() + data.tobytes()


def write_stack(
    path: Path | str, images: NDArray[np.floating], pixel_size_angstrom: float, mode: StackMode = 2
) -> None:
    """Write images (n, ny, nx) as a stack, atomically; integer modes round and clip."""
    with (
        atomic_path(path) as temporary,
        StackWriter(temporary, len(images), images.shape[1:], pixel_size_angstrom, mode=mode) as writer,
    ):
        writer.append(images)


class StackWriter:
    """Write a stack a few images at a time, in place: readers see it grow, as they do in a real session.

    Parameters
    ----------
    path : Path or str
    n_images : int
        How many there will be.
    image_shape : (ny, nx)
    pixel_size_angstrom : float
    mode : {0, 1, 2, 6, 12}
    growing_header : bool
        True: the header counts the images written so far, as RELION's extraction does it. False: the header
        says ``n_images`` from the start, so that an unfinished stack is too short.

    Notes
    -----
    The statistics stay marked as unknown (max < min, MRC2014) until `close` has seen every image.
    """

    def __init__(
        self,
        path: Path | str,
        n_images: int,
        image_shape: tuple[int, ...],
        pixel_size_angstrom: float,
        *,
        mode: StackMode = 2,
        growing_header: bool = False,
    ) -> None:
        self._file: BinaryIO = Path(path).open("wb")  # noqa: SIM115  # closed by close()
        self._dtype = np.dtype(_DTYPES[mode])
        self._growing_header = growing_header
        self._n_images = n_images
        self._shape = image_shape
        self._pixel_size_angstrom = pixel_size_angstrom
        self._mode = mode
        self._written = 0
        self._sum = 0.0
        self._sum_of_squares = 0.0
        self._min = np.inf
        self._max = -np.inf
        self._write_header(0 if growing_header else n_images, finished=False)

    def __enter__(self) -> StackWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, images: NDArray[np.floating]) -> None:
        """Append images (n, ny, nx) and make them visible to readers."""
        if images.shape[1:] != tuple(self._shape) or self._written + len(images) > self._n_images:
            raise ValueError(
                f"{self._file.name}: a stack of {self._n_images} images of shape {tuple(self._shape)} "
                "holding "
                f"{self._written} cannot take {images.shape}"
            )
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            stored = np.clip(np.rint(images), limits.min, limits.max).astype(self._dtype)
        else:
            stored = images.astype(self._dtype)
        self._file.write(np.ascontiguousarray(stored).tobytes())
        self._written += len(images)
        if stored.size:
            values = stored.astype(np.float64)
            self._sum += float(values.sum())
            self._sum_of_squares += float(np.square(values).sum())
            self._min = min(self._min, float(values.min()))
            self._max = max(self._max, float(values.max()))
        if self._growing_header:
            self._write_header(self._written, finished=False)
        self._file.flush()

    def close(self) -> None:
        """Write the statistics, if every image is there, and close the file."""
        if self._file.closed:
            return
        if self._written == self._n_images and self._written > 0:
            self._write_header(self._written, finished=True)
        self._file.close()

    def _write_header(self, n_images: int, *, finished: bool) -> None:
        ny, nx = self._shape
        header = np.zeros((), HEADER_DTYPE)
        header["nx"], header["ny"], header["nz"] = nx, ny, n_images
        header["mode"] = self._mode
        header["mx"], header["my"], header["mz"] = nx, ny, max(n_images, 1)
        pixel = self._pixel_size_angstrom
        header["cella"] = (nx * pixel, ny * pixel, max(n_images, 1) * pixel)
        header["cellb"] = (90.0, 90.0, 90.0)
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        header["nversion"] = 20140
        header["map"] = b"MAP "
        header["machst"] = (0x44, 0x44, 0, 0)
        if finished:
            n = self._written * nx * ny
            mean = self._sum / n
            header["dmin"], header["dmax"], header["dmean"] = self._min, self._max, mean
            header["rms"] = np.sqrt(max(0.0, self._sum_of_squares / n - mean * mean))
        else:
            header["dmin"], header["dmax"], header["dmean"], header["rms"] = 0.0, -1.0, -2.0, -1.0
        header["nlabl"] = 1
        header["label"][0] = _LABEL
        position = self._file.tell()
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._file.seek(max(position, header.nbytes))
        self._file.flush()

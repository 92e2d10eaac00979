"""The CUDA backend's part for images: transforms, half-plane points, CTF, polar rings, weights."""

from __future__ import annotations

import numpy as np

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.base import THREADS, Base
from streamrecon.fourier.points import HalfPlanePoints


class ImageKernels(Base):
    """See `compute.backend.Backend` for what each method returns."""

    def image_transforms(self, images: Array, mask: Array) -> Array:
        """Return rfft2 of masked images."""
        transforms: Array = self._xp.fft.rfft2(images * mask)
        return transforms

    def half_plane(self, transforms: Array, points: HalfPlanePoints) -> tuple[Array, Array]:
        """Return real and imaginary parts at the points."""
        n, m = len(transforms), len(points)
        real, imaginary = self._empty(n, m), self._empty(n, m)
        self._launch_each(
            "gather_half_plane", n * m, transforms, self._tables.of(points.kx), self._tables.of(points.ky), n,
            transforms.shape[1], m, real, imaginary,
        )  # fmt: skip
        return real, imaginary

    def shell_power(self, transforms: Array, n_shells: int) -> Array:
        """Return the mean of |F|^2 a shell."""
        power = self._empty(len(transforms), n_shells)
        self._launch(
            "shell_power", len(transforms), THREADS, transforms, transforms.shape[1], n_shells, power,
            shared=8 * n_shells,
        )  # fmt: skip
        return power

    def ctf(self, coefficients: Array, kx: Array, ky: Array, frequency_step: Array) -> Array:
        """Return the CTF at points given in Fourier pixels."""
        n, m = len(coefficients), kx.size
        out = self._empty(n, m)
        self._launch_each(
            "ctf_at_points", n * m, coefficients, self._tables.of(kx), self._tables.of(ky), frequency_step, n, m, out
        )
        return out

    def rings(self, transforms: Array, matrix: Array, small_box: int) -> Array:
        """Return the transforms on polar rings: crop, inverse FFT, one GEMM."""
        half, n = small_box // 2, len(transforms)
        small = self._xp.zeros((n, small_box, half + 1), np.complex64)
        small[:, :half, :half] = transforms[:, :half, :half]
        small[:, -half + 1 :, :half] = transforms[:, -half + 1 :, :half]
        image = self._xp.fft.irfft2(small, s=(small_box, small_box))
        return self._xp.matmul(image.reshape(n, -1), matrix).reshape(n, 2, -1)  # type: ignore[no-any-return] # CuPy's

    def weigh(self, real: Array, imaginary: Array, ctf: Array, shell: Array, inverse_noise: Array) -> Array:
        """Return cross re, cross im and power weight of the likelihood."""
        n, m = real.shape
        out = self._empty(3, n, m)
        self._launch_each(
            "weigh_half_plane", n * m, real, imaginary, ctf, self._tables.of(shell), inverse_noise, n, m,
            inverse_noise.shape[1], out,
        )  # fmt: skip
        return out

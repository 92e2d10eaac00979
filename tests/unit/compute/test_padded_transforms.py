"""Transforms that leave out what is zero or will be dropped, against SciPy's of the whole."""

import numpy as np
import pytest
import scipy.fft

from streamrecon.compute import cpu

SIZES = [(16, 32), (18, 36), (20, 60)]


@pytest.mark.parametrize(("size", "padded_size"), SIZES)
def test_forward(rng, size, padded_size):
    volume = rng.normal(size=(size,) * 3).astype(np.float32)
    edge = (padded_size - size) // 2
    padded = np.pad(volume, (edge, padded_size - size - edge))
    expected = scipy.fft.rfftn(padded)
    found = cpu._transform_of_padded(volume, padded_size, 2)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "padded_size"), SIZES)
def test_inverse(rng, size, padded_size):
    transform = scipy.fft.rfftn(rng.normal(size=(padded_size,) * 3).astype(np.float32))
    edge = (padded_size - size) // 2
    expected = scipy.fft.irfftn(transform, s=(padded_size,) * 3)[(slice(edge, edge + size),) * 3]
    found = cpu._middle_of_inverse(transform.copy(), size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())

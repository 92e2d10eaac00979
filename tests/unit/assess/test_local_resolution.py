import numpy as np
import scipy.fft

from streamrecon.assess.local_resolution import local_resolution
from streamrecon.assess.masks import spherical_mask
from streamrecon.fourier.shells import shell_index_rfft

BOX, VOXEL = 64, 3.0


def low_passed(volume, shell):
    transform = scipy.fft.rfftn(volume) * (shell_index_rfft(len(volume)) <= shell)
    return scipy.fft.irfftn(transform, s=volume.shape)


def test_each_side_has_its_own_resolution(rng):
    """Left half of the signal ends at 16 A, right half at 8 A; noise is the same everywhere."""
    detail = rng.standard_normal((BOX,) * 3)
    coarse, fine = low_passed(detail, 12), low_passed(detail, 24)
    left = np.arange(BOX) < BOX // 2  # along x
    signal = np.where(left, coarse, fine)
    halves = [signal + 0.1 * rng.standard_normal(signal.shape) for _ in range(2)]
    mask = spherical_mask(BOX, 24, 4)
    found = local_resolution(*halves, VOXEL, mask, window_angstrom=72)
    inside = mask > 0.5
    assert (found[~inside] == 0).all()
    middle = [np.median(found[..., x][inside[..., x]]) for x in (BOX // 2 - 14, BOX // 2 + 14)]
    assert 11.5 < middle[0] < 18
    assert 6 < middle[1] < 9


def test_noise_has_the_windows_own_size(rng):
    halves = rng.standard_normal((2, BOX, BOX, BOX))
    found = local_resolution(*halves, VOXEL, spherical_mask(BOX, 20, 4))
    assert np.median(found[found > 0]) > 25


def test_nothing_is_finer_than_nyquist(rng):
    detail = rng.standard_normal((BOX,) * 3)
    found = local_resolution(detail, detail, VOXEL, spherical_mask(BOX, 20, 4))
    assert found[found > 0].min() >= 2 * VOXEL
    assert np.median(found[found > 0]) < 2.2 * VOXEL

"""Pictures against the definition: positions by the forward projection, greys by the array itself."""

import io

import healpix
import numpy as np
import pytest
from PIL import Image

from streamrecon.page.pictures import SHOWN_SIDE, angular_picture, map_picture, preview


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_slices_and_projections_stand_side_by_side(rng):
    volume = np.zeros((32, 32, 32), np.float32)
    volume[20, 16, 16] = 5.0  # above the centre along z
    volume[16, 16, 27] = 5.0  # to the right along x
    slices = pixels(map_picture(volume, "slices"))
    assert slices.shape == (32, 3 * 32 + 8)
    z, y, x = (slices[:, i * 36 : i * 36 + 32] for i in range(3))
    assert np.argwhere(z > 128).tolist() == [[31 - 16, 27]]  # the z slice has the second point alone
    assert sorted(np.argwhere(y > 128).tolist()) == [[31 - 20, 16], [31 - 16, 27]]
    assert np.argwhere(x > 128).tolist() == [[31 - 20, 16]]
    sums = pixels(map_picture(volume, "projections"))
    assert sorted(np.argwhere(sums[:, :32] > 128).tolist()) == [[31 - 16, 16], [31 - 16, 27]]


def test_a_flat_map_is_a_picture_too():
    assert pixels(map_picture(np.zeros((8, 8, 8), np.float32), "slices")).max() == 0


def mollweide(theta, phi):
    """Return x in [-1, 1] and y in [-1, 1] by Newton's method (Snyder, p. 251)."""
    latitude = np.pi / 2 - theta
    t = latitude
    for _ in range(50):
        t -= (2 * t + np.sin(2 * t) - np.pi * np.sin(latitude)) / (2 + 2 * np.cos(2 * t))
    longitude = phi if phi <= np.pi else phi - 2 * np.pi
    return longitude / np.pi * np.cos(t), np.sin(t)


@pytest.mark.parametrize("pixel", [30, 123, 300, 511, 700])
def test_each_direction_is_where_the_projection_puts_it(pixel):
    n_side = 8
    counts = np.zeros(12 * n_side**2)
    counts[pixel] = 7.0
    picture = pixels(angular_picture(n_side, counts))
    height, width, _ = picture.shape
    theta, phi = healpix.pix2ang(n_side, pixel)
    x, y = mollweide(theta, phi)
    row, column = int((1 - y) / 2 * height), int((1 + x) / 2 * width)
    bright, dark = picture[row, column, :3], picture[height // 2 + 3, width // 2 + 60, :3]
    assert bright.tolist() == [253, 231, 37]  # the end of viridis
    assert dark.tolist() == [68, 1, 84]  # its beginning
    assert picture[0, 0, 3] == 0
    assert picture[height // 2, width // 2, 3] == 255


def test_equal_areas_get_equal_numbers_of_pixels():
    """Mollweide's projection keeps areas: the pixels of a hemisphere's half are half of the ellipse."""
    n_side = 4
    z = healpix.pix2vec(n_side, np.arange(12 * n_side**2))[2]
    picture = pixels(angular_picture(n_side, (z > 0).astype(float)))
    bright = ((picture[..., 0] > 200) & (picture[..., 3] > 0)).sum()
    inside = (picture[..., 3] > 0).sum()
    assert bright / inside == pytest.approx(np.mean(z > 0), abs=0.02)


def test_a_large_map_is_cut_in_fourier_space_to_what_a_screen_shows():
    side, voxel = 192, 1.0
    at = np.arange(side) * voxel
    wave = np.cos(2 * np.pi * 5 * at / (side * voxel)).astype(np.float32)
    volume = np.broadcast_to(wave, (side, side, side)).copy()
    small, small_voxel = preview(volume, voxel)
    assert small.shape == (SHOWN_SIDE,) * 3
    assert small_voxel * SHOWN_SIDE == pytest.approx(side * voxel)
    expected = np.cos(2 * np.pi * 5 * np.arange(SHOWN_SIDE) / SHOWN_SIDE)
    np.testing.assert_allclose(small[3, 7], expected, atol=1e-4)


def test_a_small_map_is_left_as_it_is():
    volume = np.ones((16, 16, 16), np.float32)
    assert preview(volume, 2.0) == (volume, 2.0)

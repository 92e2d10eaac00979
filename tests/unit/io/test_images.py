import numpy as np
import pytest

from streamrecon.errors import IngestError
from streamrecon.io import check_images, detect_contrast, normalize_background


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_names_the_images_that_cannot_be_used(rng: np.random.Generator) -> None:
    images = rng.standard_normal((5, 8, 8)).astype(np.float32)
    images[1, 2, 3] = np.nan
    images[2] = 4.0
    images[4, 0, 0] = -np.inf
    good, reasons = check_images(images, "s.mrcs", np.array([10, 11, 12, 13, 14]))
    assert good.tolist() == [True, False, False, True, False]
    assert len(reasons) == 3
    assert "s.mrcs: expected an image in section 12, found 1 pixels NaN or infinite" in reasons[0]
    assert "section 13, found the same value in every pixel" in reasons[1]
    assert "section 15" in reasons[2]


def test_large_values_are_no_reason(rng: np.random.Generator) -> None:
    images = (rng.standard_normal((2, 8, 8)) * 1e30).astype(np.float32)
    good, reasons = check_images(images, "s.mrcs", np.arange(2))
    assert good.all()
    assert not reasons


def test_background_gets_mean_0_and_deviation_1(rng: np.random.Generator) -> None:
    images = (rng.standard_normal((4, 32, 32)) * 25 + 4000).astype(np.float32)
    y, x = np.mgrid[:32, :32] - 16
    inside = x**2 + y**2 <= 100
    images[:, inside] += 50
    out = normalize_background(images, 10)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[:, ~inside].mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(out[:, ~inside].std(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(out[:, inside].mean(axis=1), 2, atol=0.3)


def test_a_circle_that_leaves_no_background(rng: np.random.Generator) -> None:
    with pytest.raises(IngestError, match="smaller particle diameter"):
        normalize_background(rng.standard_normal((1, 16, 16)), 12)
    with pytest.raises(IngestError, match="image 1 of the batch"):
        normalize_background(np.stack([rng.standard_normal((16, 16)), np.ones((16, 16))]), 5)


@pytest.mark.parametrize("n", [200, 40])
def test_contrast_of_noisy_particles(rng: np.random.Generator, n: int) -> None:
    y, x = np.mgrid[:64, :64] - 32
    particle = np.exp(-(x**2 + y**2) / 200)
    images = 0.2 * particle + rng.standard_normal((n, 64, 64))
    images[0] += 1000 * (x > 0)  # a carbon edge
    assert detect_contrast(images, 20) == "protein_white"
    assert detect_contrast(-images, 20) == "protein_black"


def test_contrast_of_pure_noise_is_unsure(rng: np.random.Generator) -> None:
    assert detect_contrast(rng.standard_normal((300, 32, 32)), 10) == "unsure"
    assert detect_contrast(np.ones((300, 32, 32)), 10) == "unsure"
    assert detect_contrast(rng.standard_normal((3, 32, 32)) + 1, 10) == "unsure"

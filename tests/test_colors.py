"""Words for colours: CIELAB against another implementation, patches and probabilities by hand."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from extractors.colors import lab_of, market_shades, mean_colors, shades_of


def test_lab_by_hand() -> None:
    """White, black, and sRGB's red as CIE 15 has it for D65."""
    found = lab_of(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    np.testing.assert_allclose(found[0], [100, 0, 0], atol=0.01)
    np.testing.assert_allclose(found[1], [0, 0, 0], atol=0.01)
    np.testing.assert_allclose(found[2], [53.24, 80.09, 67.20], atol=0.02)


def test_lab_as_littlecms_has_it(rng: np.random.Generator) -> None:
    """Lightness; hues differ, as profiles are relative to D50. Pillow rounds to 100 / 255."""
    pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
    gray = pixels.copy()
    gray[:] = pixels[:, :, :1]
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    for picture in (pixels, gray):
        image = ImageCms.profileToProfile(Image.fromarray(picture), *profiles, outputMode="LAB")
        assert image is not None
        other = np.asarray(image).astype(float)[:, :, 0] * 100 / 255
        assert np.abs(lab_of(picture)[:, :, 0] - other).max() < (8 if picture is pixels else 0.5)


def test_mean_colors_of_patches() -> None:
    picture = np.zeros((1, 10, 8, 3), np.uint8)
    picture[0, 4, 3] = (90, 0, 0)
    at = np.array([[3.5 / 8, 4.5 / 10]])
    np.testing.assert_allclose(mean_colors(picture, at, half=(0, 0)), [[90, 0, 0]])
    np.testing.assert_allclose(mean_colors(picture, at, half=(1, 2)), [[6, 0, 0]])
    # A corner has a quarter of the patch, and the far edge is the last pixel.
    picture[0, 9, 7] = (0, 0, 60)
    np.testing.assert_allclose(
        mean_colors(picture, np.array([[1.0, 1.0]]), half=(1, 1)), [[0, 0, 15]]
    )
    outside = np.array([[-0.01, 0.5]])
    assert np.isnan(mean_colors(picture, outside, half=(1, 1))).all()


def test_probabilities_by_hand() -> None:
    """Two shades at equal distance share by their shares, another word's far away has none."""
    white, black = lab_of(np.array([255, 255, 255])), lab_of(np.array([0, 0, 0]))
    rows = [
        {"word": word, "L": lab[0], "a": lab[1], "b": lab[2], "share": share}
        for word, lab, share in (("light", white, 3), ("pale", white, 1), ("dark", black, 4))
    ]
    found = shades_of(rows, spread=100.0).probabilities(np.array([[255, 255, 255], [0, 0, 0]]))
    np.testing.assert_allclose(found, [[0.75, 0.25, 0], [0, 0, 1]], atol=1e-12)
    # exp(−d² / spread): as far as the root of the spread it is 1 / e of the share.
    near = shades_of(rows[::2], spread=float(100.0**2)).probabilities(np.array([[0, 0, 0]]))
    np.testing.assert_allclose(near[0, 0], 3 / np.e / (3 / np.e + 4), rtol=1e-6)


@pytest.mark.parametrize("clothes", ["upper", "lower"])
def test_strong_colors_are_called_by_their_names(clothes: str) -> None:
    """Also ones that no clothes of Market's have."""
    shades = market_shades(clothes)
    named = {
        "black": (0, 0, 0),
        "white": (255, 255, 255),
        "yellow": (255, 255, 0),
        "green": (0, 120, 30),
        "blue": (60, 85, 130),
        "red" if clothes == "upper" else "pink": (255, 0, 30),
    }
    likely = shades.probabilities(np.array(list(named.values())))
    assert [shades.words[place] for place in likely.argmax(axis=1)] == list(named)
    np.testing.assert_allclose(likely.sum(axis=1), 1)


def test_words_are_those_of_the_labels() -> None:
    upper = {"black", "white", "red", "purple", "yellow", "gray", "blue", "green"}
    assert set(market_shades("upper").words) == upper
    assert set(market_shades("lower").words) == upper - {"red"} | {"pink", "brown"}

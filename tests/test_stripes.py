"""The stripes descriptor against published colours, the standard library and hand-made pictures."""

import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.stripes import (
    COLOUR_BINS,
    STRIPE_DIM,
    StripesExtractor,
    axis_weights,
    balance_light,
    gradient,
    rgb_to_hsv,
    rgb_to_lab,
    soft_histograms,
    with_prior,
)
from reid_index.fingerprint import Fingerprint

COLOURS = 6 * COLOUR_BINS
"""In a stripe's 57 numbers, the orientations begin here."""


def stripes_of(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The descriptor as (16, 57): stripe, number."""
    return StripesExtractor().extract([crop]).global_.reshape(16, STRIPE_DIM)


@pytest.fixture
def crop() -> NDArray[np.uint8]:
    """Coarse random colours, so that neighbouring pixels are alike as in a picture."""
    blocks = np.random.default_rng(7).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    return blocks.repeat(4, axis=0).repeat(4, axis=1)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # as published for sRGB and D65, e.g. in Lindbloom's calculator
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((128 / 255, 128 / 255, 128 / 255), (53.585, 0, 0)),
        ((2 / 255, 2 / 255, 2 / 255), (0.548, 0, 0)),  # both straight parts of the curves
    ],
)
def test_lab_of_known_colours(
    rgb: tuple[float, float, float], lab: tuple[float, float, float]
) -> None:
    np.testing.assert_allclose(rgb_to_lab(np.array(rgb, np.float32)), lab, atol=0.03)


def test_hsv_is_that_of_the_standard_library() -> None:
    levels = np.random.default_rng(0).integers(0, 6, (500, 3)) * 51  # few levels: ties and greys
    expected = np.array([colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in levels])
    found = rgb_to_hsv((levels / 255).astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_gradient_of_hand_made_pictures() -> None:
    edge = np.zeros((1, 3, 4), np.float32)
    edge[0, :, 2:] = 0.5  # dark left, light right
    orientation, magnitude = gradient(edge)
    np.testing.assert_array_equal(magnitude[0], [[0, 0.5, 0.5, 0]] * 3)
    np.testing.assert_array_equal(orientation[0], np.zeros((3, 4)))
    # The same edge from light to dark, then lying down, then a ramp along both diagonals.
    np.testing.assert_allclose(gradient(edge[:, :, ::-1])[0], 0, atol=1e-7)
    np.testing.assert_allclose(gradient(edge.transpose(0, 2, 1))[0][0, 1:3], 0.5)
    row, column = np.mgrid[0:3, 0:3].astype(np.float32)
    for ramp, expected in ((row + column, 0.25), (row - column, 0.75)):
        angle, length = gradient(ramp[None])
        assert angle[0, 1, 1] == pytest.approx(expected)
        assert length[0, 1, 1] == pytest.approx(2 * np.sqrt(2))


def test_soft_histograms_by_hand() -> None:
    values, weights = np.zeros((2, 16, 3), np.float32), np.ones((2, 16, 3), np.float32)
    # Four bins with middles 1/8, 3/8, 5/8, 7/8; the third pixel is a quarter of the way from the
    # second middle to the third and weighs 2.
    values[1, 5] = [0.0, 1.0, 3 / 8 + 1 / 16]
    weights[1, 5] = [1, 1, 2]
    straight = soft_histograms(values, weights, bins=4)
    circular = soft_histograms(values, weights, bins=4, circular=True)
    np.testing.assert_allclose(straight[1, 5], [1, 1.5, 0.5, 1])
    np.testing.assert_allclose(circular[1, 5], [1, 1.5, 0.5, 1])  # 0 and 1 are the same: ½ + ½
    np.testing.assert_allclose(straight[0], [[3, 0, 0, 0]] * 16)
    np.testing.assert_allclose(circular[1, 4], [1.5, 0, 0, 1.5])


def test_prior_matters_only_to_weak_histograms() -> None:
    counts = np.array([[30.0, 10.0], [0.0, 0.0], [0.12, 0.0]])
    expected = [[30.06 / 40.12, 10.06 / 40.12], [0.5, 0.5], [0.18 / 0.24, 0.06 / 0.24]]
    np.testing.assert_allclose(with_prior(counts, mass=40.0), expected)


def test_axis_weights_fall_by_the_gaussian() -> None:
    weights = axis_weights(23)  # the middle is column 11, the ends one σ away
    np.testing.assert_allclose(weights[[0, 11, 22]], [np.exp(-0.5), 1, np.exp(-0.5)], rtol=1e-6)


def test_light_is_balanced() -> None:
    batch = np.zeros((2, 1, 2, 3), np.uint8)
    batch[0, 0] = [[51, 102, 204], [0, 0, 0]]  # means 0.1, 0.2, 0.4; of the three 7/30
    batch[1] = 255
    gains = 0.4 / np.sqrt(np.array([0.1, 0.2, 0.4]) * 7 / 30)
    expected = np.minimum(gains * [0.2, 0.4, 0.8], 1)
    found = balance_light(batch)
    np.testing.assert_allclose(found[0, 0], [expected, [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.4, rtol=1e-6)


def test_inner_product_is_the_mean_bhattacharyya_coefficient(crop: NDArray[np.uint8]) -> None:
    found = stripes_of(crop)
    assert found.dtype == np.float32
    histograms = np.square(found).reshape(16, -1) * (16 * 7)
    for start in [*range(0, COLOURS, COLOUR_BINS), COLOURS]:
        end = start + (COLOUR_BINS if start < COLOURS else 9)
        np.testing.assert_allclose(histograms[:, start:end].sum(axis=1), 1, rtol=1e-5)


def test_a_uniform_crop_by_hand() -> None:
    crop = np.full((3, 2, 3), [80, 160, 120], np.uint8)
    # The means are in the ratio 2 : 4 : 3, their mean is 3: what is left is 0.4 · √(m_c / m).
    balanced = 0.4 * np.sqrt(np.array([2, 4, 3]) / 3)
    hue, saturation, value = colorsys.rgb_to_hsv(*balanced)
    lightness, a, b = rgb_to_lab(balanced.astype(np.float32))
    expected = []
    for level in (hue, saturation, value, lightness / 100, a / 120 + 0.5, b / 120 + 0.5):
        distance = np.abs(np.arange(8) + 0.5 - level * 8)  # none is beyond the outer middles
        expected.append(np.maximum(0, 1 - distance))
    weights = np.array([saturation, 1, 1, 1, 1, 1])[:, None]
    expected = (weights * expected + 0.003 / 8) / (weights + 0.003)
    found = np.square(stripes_of(crop)) * (16 * 7)
    np.testing.assert_allclose(found[9, :COLOURS].reshape(6, 8), expected, atol=1e-5)
    np.testing.assert_allclose(found[:, COLOURS:], 1 / 9, rtol=1e-5)  # no gradient: even
    np.testing.assert_allclose(found, np.tile(found[9], (16, 1)), atol=1e-5)


def test_a_change_of_the_last_rows_stays_in_the_last_stripes(crop: NDArray[np.uint8]) -> None:
    changed = crop.copy()
    changed[120:] = np.roll(crop[120:], 20, axis=1)  # moved sideways: the mean colour is the same
    differs = stripes_of(crop) != stripes_of(changed)
    assert not differs[:14].any()
    assert not differs[14, :COLOURS].any()
    assert differs[14, COLOURS:].any()  # the gradient of its last row looks one row down
    assert differs[15, :COLOURS].mean() > 0.5


def test_middle_columns_count_more_than_the_sides(crop: NDArray[np.uint8]) -> None:
    at_side, at_middle = crop.copy(), crop.copy()
    at_side[:, :8] = at_side[::-1, :8]
    at_middle[:, 28:36] = at_middle[::-1, 28:36]
    own = stripes_of(crop)
    assert np.linalg.norm(own - stripes_of(at_side)) < 0.5 * np.linalg.norm(
        own - stripes_of(at_middle)
    )


def test_a_crop_has_the_same_numbers_in_every_batch(crop: NDArray[np.uint8]) -> None:
    batch = np.random.default_rng(1).integers(0, 256, (19, 128, 64, 3), dtype=np.uint8)
    batch[17] = crop
    batch.flags.writeable = False
    found = StripesExtractor().embed(batch).global_
    assert found.shape == (19, StripesExtractor().dim) == (19, 912)
    np.testing.assert_array_equal(found[17], stripes_of(crop).ravel())


def test_twice_the_light_changes_nothing(crop: NDArray[np.uint8]) -> None:
    dark = crop // 2
    np.testing.assert_allclose(stripes_of(dark), stripes_of(dark * 2), atol=1e-4)


def test_the_mirrored_crop_differs_by_the_order_of_orientations(crop: NDArray[np.uint8]) -> None:
    own, mirrored = stripes_of(crop), stripes_of(crop[:, ::-1])
    np.testing.assert_allclose(mirrored[:, :COLOURS], own[:, :COLOURS], atol=1e-6)
    np.testing.assert_allclose(mirrored[:, COLOURS:], own[:, : COLOURS - 1 : -1], atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 2)])
def test_extreme_crops_are_finite_and_of_length_1(size: tuple[int, int], level: int) -> None:
    found = stripes_of(np.full((*size, 3), level, np.uint8))
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_prepare_is_what_the_fingerprint_says(crop: NDArray[np.uint8]) -> None:
    extractor = StripesExtractor()
    assert extractor.fingerprint == Fingerprint(
        name="stripes",
        version="1",
        height=128,
        width=64,
        interpolation="bilinear",
        color_order="RGB",
        scale=1 / 255,
        pooling="Hellinger histograms of 16 stripes",
    )
    assert extractor.prepare(crop[:50]).shape == (128, 64, 3)
    np.testing.assert_array_equal(extractor.prepare(crop), crop)
    # Bilinear: column c of 64 lies (c + ½) / 32 − ½ of the way from the first pixel to the second.
    pair = np.array([[[0, 0, 0], [0, 255, 0]]], np.uint8)
    way = np.clip((np.arange(64) + 0.5) / 32 - 0.5, 0, 1)
    np.testing.assert_allclose(extractor.prepare(pair)[5, :, 1], 255 * way, atol=1)
    # Antialiased: one light column of four leaves a quarter of the light everywhere inside.
    comb = np.zeros((128, 256, 3), np.uint8)
    comb[:, 3::4] = 255
    np.testing.assert_allclose(extractor.prepare(comb)[:, 2:-2], 255 / 4, atol=1)

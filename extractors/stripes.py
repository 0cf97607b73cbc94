"""A person descriptor without weights: colour and edge histograms of horizontal stripes.

For demonstrations, tests and a floor that a trained model has to beat. The idea is Gray & Tao,
"Viewpoint Invariant Pedestrian Recognition with an Ensemble of Localized Features", ECCV 2008.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_index.fingerprint import Fingerprint

from .extractor import Crop, Embedding, Extractor

Floats = NDArray[np.float32]

HEIGHT, WIDTH = 128, 64
STRIPES = 16  # stripe i, from the top, is rows 8·i … 8·i + 7
COLOUR_BINS = 8
ORIENTATIONS = 9  # over 0…180°, as Dalal & Triggs, CVPR 2005, section 6.3, found best
STRIPE_DIM = 6 * COLOUR_BINS + ORIENTATIONS
"""Of each stripe in this order: hue, saturation, value, L*, a*, b*, orientation."""

# Chosen by mean average precision on training identities of Market-1501, on a coarse grid.
_AXIS_SIGMA = 11.0  # columns
_TARGET_MEAN = 0.4
_AB_LIMIT = 60.0
_PRIOR = 0.003
_CHUNK = 16  # crops; changes the speed alone

# IEC 61966-2-1: linear sRGB to CIE XYZ, white D65. White is (1, 1, 1) · the row sums.
_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)


class StripesExtractor(Extractor):
    """16 stripes × 57 numbers = 912, stripe by stripe from the top, in the order of STRIPE_DIM.

    Each stripe has seven histograms with sum 1, of which the square root is kept (Hellinger). All
    is scaled so that a row has length 1, and the inner product of two rows is the mean of the
    Bhattacharyya coefficients of their 112 pairs of histograms, in 0…1.

    Background is at the sides, so a pixel counts by its column (`axis_weights`); Farenzena et al.,
    CVPR 2010, weigh by the distance to a body's axis too. Hue counts by saturation as well,
    orientation by the gradient's magnitude: greys and flat areas have neither.

    A stripe's numbers depend on its own rows, on the crop's mean colour (`balance_light`) and, for
    orientation, on the row above and the row below. The mirrored crop has the same numbers, apart
    from each stripe's orientations, whose order is reversed.
    """

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(
            name="stripes",
            version="1",
            height=HEIGHT,
            width=WIDTH,
            interpolation="bilinear",
            color_order="RGB",
            scale=1 / 255,
            pooling="Hellinger histograms of 16 stripes",
        )

    @property
    def dim(self) -> int:
        return STRIPES * STRIPE_DIM

    def prepare(self, crop: Crop) -> NDArray[np.uint8]:
        """The crop as uint8 (128, 64, 3), resized by Pillow's antialiased bilinear filter."""
        picture = Image.fromarray(crop).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        return np.asarray(picture)

    def embed(self, batch: NDArray[np.uint8]) -> Embedding:
        """uint8 (B, 128, 64, 3) to float32 (B, 912). A row does not depend on the others."""
        # Faster than all at once where B is large: a few crops stay in the cache.
        starts = range(0, len(batch), _CHUNK)
        return Embedding(global_=np.concatenate([_describe(batch[i : i + _CHUNK]) for i in starts]))


def _describe(crops: NDArray[np.uint8]) -> Floats:
    rgb = balance_light(crops)
    hsv, lab = rgb_to_hsv(rgb), rgb_to_lab(rgb)
    lightness = lab[..., 0] / np.float32(100)
    chroma = np.clip(lab[..., 1:] / np.float32(2 * _AB_LIMIT) + np.float32(0.5), 0, 1)
    planes = (hsv[..., 1], hsv[..., 2], lightness, chroma[..., 0], chroma[..., 1])
    orientation, magnitude = gradient(lightness)
    axis = axis_weights(WIDTH)
    even = np.broadcast_to(axis, orientation.shape)
    histograms = [
        soft_histograms(hsv[..., 0], even * hsv[..., 1], bins=COLOUR_BINS, circular=True),
        *(soft_histograms(plane, even, bins=COLOUR_BINS) for plane in planes),
        soft_histograms(orientation, even * magnitude, bins=ORIENTATIONS, circular=True),
    ]
    mass = float(axis.sum()) * HEIGHT / STRIPES
    roots = [np.sqrt(with_prior(counts, mass=mass)) for counts in histograms]
    vectors = np.concatenate(roots, axis=2).reshape(len(crops), -1)
    return np.asarray(vectors / np.sqrt(STRIPES * len(roots)), np.float32)


def balance_light(batch: NDArray[np.uint8]) -> Floats:
    """uint8 (B, H, W, 3) to float32 0…1 with brightness made equal and a colour cast lessened.

    Channel c is multiplied by 0.4 / √(m_c · m), m_c its mean over the crop (at least one of 255
    levels) and m the mean of the three, then cut off at 1. 0.4 / m_c would be the grey-world rule
    (Buchsbaum, "A spatial processor model for object colour perception", 1980), which takes away
    the colour of the clothes as well.
    """
    # Sums of integers are exact, so that a crop's numbers are the same in every batch.
    sums = batch.sum(axis=(1, 2), keepdims=True, dtype=np.int64)
    means = np.maximum(sums / (255 * batch.shape[1] * batch.shape[2]), 1 / 255)
    gain = _TARGET_MEAN / np.sqrt(means * means.mean(axis=3, keepdims=True))
    return np.minimum(batch * np.asarray(gain / 255, np.float32), np.float32(1))


def rgb_to_hsv(rgb: Floats) -> Floats:
    """Float32 (..., 3) of 0…1 to hue, saturation, value, each 0…1; red has hue 0, green 1/3.

    Smith, "Color gamut transform pairs", SIGGRAPH 1978 (the hexcone). Greys have hue 0.
    """
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.where(spread == 0, np.float32(1), spread)
    upper = np.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    sector = np.where(value == red, (green - blue) / divisor % 6, upper)
    saturation = spread / np.where(value == 0, np.float32(1), value)
    return np.stack([sector / 6, saturation, value], axis=-1)


def rgb_to_lab(rgb: Floats) -> Floats:
    """Float32 sRGB (..., 3) of 0…1 to CIE 1976 L* (0…100), a*, b* (−108…99), white D65.

    Linear light after IEC 61966-2-1, L*a*b* after CIE 15.
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    relative = np.einsum("...c,xc->...x", linear, _XYZ / _XYZ.sum(axis=1, keepdims=True))
    edge = 6 / 29
    f: Floats = np.where(relative > edge**3, np.cbrt(relative), relative / (3 * edge**2) + 4 / 29)
    fx, fy, fz = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


def gradient(image: Floats) -> tuple[Floats, Floats]:
    """Orientation and magnitude of each pixel of (B, H, W): the differences by [−1, 0, 1].

    Dalal & Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005, section 6.2,
    here on one channel. orientation: 0…1 for 0…180° without sign, 0 for brightness that changes
    from left to right. magnitude: not halved. The border is repeated outwards.
    """
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    orientation: Floats = np.arctan2(down, across) / np.float32(np.pi) % 1
    return orientation, np.hypot(across, down)


def axis_weights(width: int) -> Floats:
    """Weight (width,) of each column: exp(−d²/2σ²), d its distance to the middle, σ 11 columns."""
    distance = np.arange(width) - (width - 1) / 2
    return np.asarray(np.exp(-0.5 * (distance / _AXIS_SIGMA) ** 2), np.float32)


def soft_histograms(
    values: Floats, weights: Floats, *, bins: int, circular: bool = False
) -> NDArray[np.float64]:
    """Histograms (B, 16, bins) of values 0…1 by weights, both (B, H, W), H a multiple of 16.

    The middle of bin k is at (k + ½) / bins. A weight is shared between the two nearest middles in
    proportion to nearness, so that a small shift of light moves little. Beyond the first and the
    last middle all of it goes to that bin or, where circular, the two are neighbours.
    """
    batch, height, _ = values.shape
    position = values * bins - 0.5
    lower = np.floor(position)
    upper_part = weights * (position - lower)
    first = lower.astype(np.intp)
    if circular:
        first, second = first % bins, (first + 1) % bins
    else:
        first, second = np.maximum(first, 0), np.minimum(first + 1, bins - 1)
    stripe = np.arange(batch * height).reshape(batch, height, 1) // (height // STRIPES) * bins
    counts = np.zeros(batch * STRIPES * bins)
    for index, part in ((first, weights - upper_part), (second, upper_part)):
        counts += np.bincount((stripe + index).ravel(), part.ravel(), len(counts))
    return counts.reshape(batch, STRIPES, bins)


def with_prior(counts: NDArray[np.float64], *, mass: float) -> NDArray[np.float64]:
    """Histograms (..., bins) scaled to sum 1, after 0.003 · mass was spread evenly over the bins.

    mass: what a stripe's pixels weigh. A histogram with hardly any weight, as hue in a grey stripe,
    tends to the even one instead of to noise, and an empty one is even.
    """
    smoothed = counts + _PRIOR * mass / counts.shape[-1]
    normalised: NDArray[np.float64] = smoothed / smoothed.sum(axis=-1, keepdims=True)
    return normalised

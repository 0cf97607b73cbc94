"""The visibility-weighted distance of source 002, against its equation written out as loops."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid_index.errors import DimensionMismatch, UsageError
from reid_index.search.visibility import visible_distances, visible_of_pairs
from reid_index.search.visibility_torch import visible_distances_torch

Array = NDArray[np.generic]
BOTH = pytest.mark.parametrize("distance", ["cosine", "euclidean"])


def weighted(
    one: Array, seen: Array, other: Array, shown: Array, similarity: float, distance: str
) -> float:
    """d of a pair, by equation 13, one number after the other."""

    def unit(part: Array) -> list[float]:
        numbers = [float(number) for number in part]
        length = math.sqrt(math.fsum(number * number for number in numbers))
        return [number / length if length else 0.0 for number in numbers]

    def apart(a: list[float], b: list[float]) -> float:
        if distance == "cosine":
            return 1 - math.fsum(p * q for p, q in zip(a, b, strict=True))
        return math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)))

    if distance == "cosine":
        total = 1 - float(similarity)
    else:
        total = math.sqrt(max(2 - 2 * float(similarity), 0))
    terms = 1
    for part in range(len(one)):
        if seen[part] == 1 and shown[part] == 1:
            total += apart(unit(one[part]), unit(other[part]))
            terms += 1
    return total / terms


class Drawn:
    """A query and n items with their visibilities and cosines, some of them special."""

    def __init__(self, seed: int, n: int, parts: int, dim: int, dtype: str) -> None:
        rng = np.random.default_rng(seed)
        self.items = rng.normal(size=(n, parts, dim)).astype(dtype)
        self.shown = rng.integers(0, 2, size=(n, parts)).astype(np.uint8)
        self.query = rng.normal(size=(parts, dim)).astype(dtype)
        self.seen = rng.integers(0, 2, size=parts).astype(np.uint8)
        self.cosines = rng.uniform(-1, 1, n).astype(np.float32)
        specials: list[Any] = [self.query, -self.query, self.query * 4, np.zeros_like(self.query)]
        for at, special in zip(range(n), specials, strict=False):
            self.items[at] = special
        self.shown[n // 2] = 0
        self.shown[-1] = 1
        self.query[rng.integers(parts)] *= rng.integers(0, 2)

    def wanted(self, distance: str) -> list[float]:
        return [
            weighted(self.query, self.seen, its, shown, float(cosine), distance)
            for its, shown, cosine in zip(self.items, self.shown, self.cosines, strict=True)
        ]

    def found(self, distance: str) -> NDArray[np.float32]:
        return visible_distances(
            self.query, self.seen, self.items, self.shown, self.cosines, distance=distance
        )

    def on_device(self, distance: str, device: str = "cpu") -> NDArray[np.float32]:
        found = visible_distances_torch(
            self.query[None],
            self.seen[None],
            self.items,
            self.shown,
            self.cosines[None],
            distance=distance,
            device=device,
        )
        return np.asarray(found.cpu().numpy()[0])


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    parts=st.integers(1, 9),
    dim=st.integers(1, 40),
    dtype=st.sampled_from(["float32", "float16"]),
    distance=st.sampled_from(["cosine", "euclidean"]),
    hidden=st.sampled_from(["none", "query", "items"]),
    order=st.sampled_from(["C", "F", "reversed"]),
)
def test_it_is_the_equation_of_the_paper(
    seed: int, n: int, parts: int, dim: int, dtype: str, distance: str, hidden: str, order: str
) -> None:
    drawn = Drawn(seed, n, parts, dim, dtype)
    if hidden == "query":
        drawn.seen[:] = 0
    elif hidden == "items":
        drawn.shown[:] = 0
    wanted = drawn.wanted(distance)
    if order == "F":
        drawn.items = np.asfortranarray(drawn.items)
        drawn.shown = np.asfortranarray(drawn.shown)
        drawn.query = np.asfortranarray(drawn.query)
    elif order == "reversed":
        drawn.items = drawn.items[::-1].copy()[::-1]
        drawn.query = drawn.query[:, ::-1].copy()[:, ::-1]
    found = drawn.found(distance)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(drawn.on_device(distance), wanted, rtol=0, atol=1e-6)
    assert 0 <= found.min() <= found.max() <= 2
    if hidden != "none":  # nothing but the vectors is left
        whole = 1 - drawn.cosines.astype(float)
        if distance == "euclidean":
            whole = np.sqrt(2 * whole)
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-6)


@BOTH
def test_hidden_parts_say_nothing_whatever_they_hold(distance: str) -> None:
    drawn = Drawn(3, 50, 5, 16, "float32")
    before = drawn.found(distance)
    drawn.items[drawn.shown == 0] = 7
    drawn.query[drawn.seen == 0] = -3
    np.testing.assert_array_equal(drawn.found(distance), before)
    drawn.items[drawn.shown == 1] += 1
    assert not np.array_equal(drawn.found(distance), before)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e18, 1e38])
@BOTH
def test_equal_parts_are_nothing_apart_however_long(
    rng: np.random.Generator, scale: float, distance: str
) -> None:
    one = (rng.uniform(0.5, 1, size=(2, 128)) * scale).astype(np.float32)
    both = np.stack([one, one * np.float32(2)])
    flags, cosines = np.ones((2, 2), np.uint8), np.ones(2, np.float32)
    found = visible_distances(one, flags[0], both, flags, cosines, distance=distance)
    assert found.tolist() == pytest.approx([0, 0], abs=1e-7)
    on_device = visible_distances_torch(
        one[None], flags[:1], both, flags, cosines[None], distance=distance, device="cpu"
    )
    assert on_device.max() < 1e-6


def test_a_part_of_zeros_stays_so() -> None:
    """Its cosine is 0 with any, so it is 1 from all; its length is 1 from any other part, and
    nothing from another such."""
    empty, full = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    both, flags = np.stack([empty, full]), np.ones((2, 1), np.uint8)
    cosines = np.ones(2, np.float32)
    for distance, wanted in (("cosine", [0.5, 0.5]), ("euclidean", [0, 0.5])):
        found = visible_distances(empty, flags[0], both, flags, cosines, distance=distance)
        assert found.tolist() == pytest.approx(wanted)


@BOTH
def test_it_depends_on_nothing_but_the_pair(rng: np.random.Generator, distance: str) -> None:
    """Neither on how many are compared nor on where they lie."""
    parts = rng.normal(size=(700, 6, 24)).astype(np.float32)
    shown = rng.integers(0, 2, size=(700, 6)).astype(np.uint8)
    cosines = rng.uniform(-1, 1, 700).astype(np.float32)

    def of(query: int, rows: Any, items: Array = parts) -> NDArray[np.float32]:
        return visible_distances(
            parts[query], shown[query], items[rows], shown[rows], cosines[rows], distance=distance
        )

    whole = of(0, slice(None))
    rows = rng.permutation(700)[:300]
    np.testing.assert_array_equal(of(0, rows), whole[rows])
    np.testing.assert_array_equal(of(0, slice(5, 6)), whole[5:6])
    np.testing.assert_array_equal(of(0, slice(None), np.asfortranarray(parts)), whole)
    asked = rng.integers(0, 3, size=300)
    pairs = visible_of_pairs(
        parts[:3], shown[:3], asked, parts, shown, rows, cosines[rows], distance=distance
    )
    for query in range(3):
        np.testing.assert_array_equal(pairs[asked == query], of(query, rows[asked == query]))
    assert len(of(0, slice(0, 0))) == 0


@BOTH
def test_on_a_device_they_are_taken_a_few_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, distance: str
) -> None:
    parts = rng.normal(size=(30, 3, 5)).astype(np.float32)
    shown = rng.integers(0, 2, size=(30, 3))
    given = (parts, shown, parts, shown, rng.uniform(-1, 1, (30, 30)))
    whole = visible_distances_torch(*given, distance=distance, device="cpu")
    monkeypatch.setattr("reid_index.search.visibility_torch._ROOM", 30 * 7)
    few = visible_distances_torch(*given, distance=distance, device="cpu")
    np.testing.assert_allclose(few, whole, rtol=0, atol=1e-6)
    none = (parts[:0], shown[:0], parts, shown, np.zeros((0, 30)))
    assert visible_distances_torch(*none, distance=distance, device="cpu").shape == (0, 30)


def test_what_is_given_is_left_as_it_is(rng: np.random.Generator) -> None:
    parts = rng.normal(size=(3, 2, 4)).astype(np.float32)
    flags, cosines = np.ones((3, 2), np.uint8), np.full((3, 3), 0.5, np.float32)
    before = [one.copy() for one in (parts, flags, cosines)]
    for distance in ("cosine", "euclidean"):
        visible_distances(parts[0], flags[0], parts, flags, cosines[0], distance=distance)
        visible_distances_torch(
            parts, flags, parts, flags, cosines, distance=distance, device="cpu"
        )
    for one, other in zip((parts, flags, cosines), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        (((2, 3, 4), (2, 3), (2, 3, 5), (2, 3), (2, 2)), "of the same P and Dp are needed"),
        (((2, 3, 4), (2, 3), (2, 4), (2, 3), (2, 2)), "of the same P and Dp are needed"),
        (
            ((2, 3, 4), (2, 2), (5, 3, 4), (5, 3), (2, 5)),
            r"\(2, 3\), \(5, 3\), \(2, 5\) are needed",
        ),
        (((2, 3, 4), (2, 3), (5, 3, 4), (5,), (2, 5)), r"\(2, 3\), \(5, 3\), \(2, 5\) are needed"),
        (((2, 3, 4), (2, 3), (5, 3, 4), (5, 3), (5, 2)), r"\(2, 5\) are needed"),
    ],
)
def test_a_device_compares_only_what_fits(shapes: Any, named: str) -> None:
    with pytest.raises(DimensionMismatch, match=named):
        visible_distances_torch(*map(np.zeros, shapes), distance="cosine", device="cpu")


@pytest.mark.parametrize("device", ["mps", "meta", "cuda:99", "moon"])
def test_there_must_be_the_device(device: str) -> None:
    shapes = ((1, 1, 1), (1, 1), (1, 1, 1), (1, 1), (1, 1))
    with pytest.raises(UsageError, match=device):
        visible_distances_torch(*map(np.zeros, shapes), distance="cosine", device=device)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gpu_answers_the_same(distance: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here that torch can use")
    drawn = Drawn(5, 3000, 6, 256, dtype)
    found = drawn.on_device(distance, "cuda")
    np.testing.assert_allclose(found, drawn.found(distance), rtol=0, atol=1e-6)

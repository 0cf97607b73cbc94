"""D_local of AlignedReID++, against its equations written out as loops."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index.errors import DimensionMismatch, UsageError
from reid_index.search.aligned import local_distances, local_of_pairs, matched_distances
from reid_index.search.aligned_torch import local_distances_torch


def path_of(steps: list[list[float]]) -> float:
    """The shortest way through a square from its first cell to its last, right and down: every one
    is walked."""
    last = len(steps) - 1
    best = math.inf
    for downs in itertools.combinations(range(2 * last), last):
        i = j = 0
        total = steps[0][0]
        for move in range(2 * last):
            i, j = (i + 1, j) if move in downs else (i, j + 1)
            total += steps[i][j]
        best = min(best, total)
    return best


def local(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """D_local, by the equations."""

    def unit(stripe: NDArray[np.generic]) -> list[float]:
        numbers = [float(number) for number in stripe]
        length = math.sqrt(math.fsum(number * number for number in numbers))
        return [number / length if length else 0.0 for number in numbers]

    def step(a: list[float], b: list[float]) -> float:
        x = math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)))
        return (math.exp(x) - 1) / (math.exp(x) + 1)

    return path_of([[step(unit(a), unit(b)) for b in other] for a in one])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("stripes", "dim"), [(1, 1), (1, 16), (2, 3), (3, 16), (6, 7), (8, 16)])
def test_it_is_the_path_of_the_paper(
    rng: np.random.Generator, stripes: int, dim: int, dtype: str
) -> None:
    parts = rng.normal(size=(40, stripes, dim)).astype(dtype)
    parts[3, stripes // 2] = 0
    parts[4] = parts[0]
    parts[5] = -parts[0]
    parts[6] = parts[0] * 7 + rng.normal(size=(stripes, dim)) * 0.01
    for query in (parts[0], parts[3]):
        expected = [local(query, other) for other in parts]
        found = local_distances(query, parts)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        batch = np.stack([query, parts[7]])
        for_device = local_distances_torch(batch, parts, device="cpu").numpy()
        np.testing.assert_allclose(for_device[0], found, rtol=0, atol=1e-5)
        np.testing.assert_allclose(for_device[1], local_distances(parts[7], parts), atol=1e-5)


def test_it_walks_where_stripes_are_shifted(rng: np.random.Generator) -> None:
    """Two crops of a person that are cut differently, one's stripe i being the other's i + 1, are
    far nearer than strangers: every other step is free."""
    body = rng.normal(size=(9, 512)).astype(np.float32)
    strangers = rng.normal(size=(20, 8, 512))
    (found,) = local_distances(body[:8], body[None, 1:])
    assert found == pytest.approx(local(body[:8], body[1:]), abs=1e-5)
    assert found < 0.6 * local_distances(body[:8], strangers).min()


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e18, 1e38])
def test_equal_stripes_are_nothing_apart_however_long(
    rng: np.random.Generator, scale: float
) -> None:
    """No squares are lost, and no difference of nearly equal numbers is left over."""
    one = (rng.uniform(0.5, 1, size=(1, 128)) * scale).astype(np.float32)
    other = np.stack([one, one * np.float32(2)])
    assert local_distances(one, other).tolist() == pytest.approx([0, 0], abs=1e-7)
    assert local_distances_torch(one[None], other, device="cpu").max() < 1e-6


def test_a_stripe_of_zeros_stays_so() -> None:
    """It is 1 from any other and 0 from another such."""
    empty, full = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    apart = math.tanh(0.5)
    both = np.stack([empty, full])
    assert local_distances(empty, both).tolist() == pytest.approx([0, apart])
    assert local_distances(full, both).tolist() == pytest.approx([apart, 0])


def test_it_depends_on_nothing_but_the_pair(rng: np.random.Generator) -> None:
    """Neither on how many are compared nor on where they lie."""
    parts = rng.normal(size=(700, 8, 24)).astype(np.float32)
    whole = local_distances(parts[0], parts)
    rows = rng.permutation(700)[:300]
    np.testing.assert_array_equal(local_distances(parts[0], parts[rows]), whole[rows])
    np.testing.assert_array_equal(local_distances(parts[0], parts[5:6]), whole[5:6])
    of = rng.integers(0, 3, size=300)
    pairs = local_of_pairs(parts[:3], of, parts, rows)
    for query in range(3):
        np.testing.assert_array_equal(
            pairs[of == query], local_distances(parts[query], parts[rows[of == query]])
        )
    assert len(local_distances(parts[0], parts[:0])) == 0


def test_what_is_given_is_left_as_it_is(rng: np.random.Generator) -> None:
    parts = rng.normal(size=(3, 2, 4)).astype(np.float32)
    before = parts.copy()
    local_distances(parts[0], parts)
    local_distances_torch(parts, parts, device="cpu")
    np.testing.assert_array_equal(parts, before)


def test_both_distances_are_added() -> None:
    similarities = np.array([1, 0.5, -1, 1.0000001], np.float32)
    found = matched_distances(similarities, np.array([0, 2, 3, 1], np.float32), weight=0.5)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0, 2, 3.5, 0.5])


def test_on_a_device_they_are_taken_a_few_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = rng.normal(size=(30, 3, 5)).astype(np.float32)
    whole = local_distances_torch(parts, parts, device="cpu")
    monkeypatch.setattr("reid_index.search.aligned_torch._ROOM", 3 * 3 * 30 * 7)
    assert local_distances_torch(parts, parts, device="cpu").equal(whole)
    assert local_distances_torch(parts[:0], parts, device="cpu").shape == (0, 30)


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 5), (2, 4, 4)])
def test_a_device_compares_only_parts_of_one_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionMismatch, match="of the same P and Dp are needed"):
        local_distances_torch(np.zeros((2, 3, 4)), np.zeros(shape), device="cpu")


@pytest.mark.parametrize("device", ["mps", "meta", "cuda:99", "moon"])
def test_there_must_be_the_device(device: str) -> None:
    with pytest.raises(UsageError, match=device):
        local_distances_torch(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), device=device)

"""Fused rankings by value, against exact fractions and another library, and the laws they obey."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from reid_index.errors import NotFiniteError, UsageError
from reid_index.evaluation.fusion import METHODS, FusedScores, Fusion
from reid_index.evaluation.protocol import Labels
from reid_index.evaluation.ranks import ranks_of_relevant
from reid_index.evaluation.scores import VectorScores
from reid_index.metric import Metric


class Keys:
    """Exact keys (Q, G), lower is better; their approximations are of no use to anybody."""

    def __init__(self, keys: ArrayLike) -> None:
        self._keys = np.atleast_2d(np.asarray(keys, np.float64))
        self.queries, self.gallery = self._keys.shape

    def chunk(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        bound = np.abs(self._keys[start:stop]).max(axis=1, initial=0)
        return np.zeros((stop - start, self.gallery), np.float32), bound

    def exact(self, queries: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._keys[queries, rows]


def fused(
    *sources: ArrayLike, items: NDArray[np.int64] | None = None, **fusion: Any
) -> NDArray[np.float64]:
    """Fused scores (Q, G), higher is better."""
    scores = fuse(*sources, items=items, **fusion)
    return -all_exact(scores)


def fuse(*sources: ArrayLike, items: NDArray[np.int64] | None = None, **fusion: Any) -> FusedScores:
    made = [Keys(source) for source in sources]
    ids = np.arange(made[0].gallery) if items is None else items
    return FusedScores(made, items=ids, fusion=Fusion(**fusion))


def all_exact(scores: FusedScores) -> NDArray[np.float64]:
    queries, rows = np.indices((scores.queries, scores.gallery)).reshape(2, -1)
    return scores.exact(queries, rows).reshape(scores.queries, scores.gallery)


def tied_keys(seed: int, *, queries: int = 5, gallery: int = 60) -> NDArray[np.float64]:
    """Random keys, a quarter of them equal to others of the same query."""
    keys = np.random.default_rng(seed).integers(-50, 50, (queries, gallery)) / 64
    keys[:, : gallery // 4] = keys[:, -(gallery // 4) :]
    return keys


def test_reciprocal_ranks_by_value() -> None:
    # Ranks of rows 0 … 3 (ids 9, 8, 7, 6): 1, 4, 3, 2 and 4, 1, 2, 3, where equal keys go by id.
    ids = np.array([9, 8, 7, 6])
    scores = fused([0.1, 0.5, 0.2, 0.2], [3, 0, 1, 2], items=ids, method="rrf")
    expected = [1 / 61 + 1 / 64, 1 / 64 + 1 / 61, 1 / 63 + 1 / 62, 1 / 62 + 1 / 63]
    assert scores.tolist() == [expected]
    weighted = fused(
        [0.1, 0.5, 0.2, 0.2], [3, 0, 1, 2], items=ids, method="rrf", weights=(2, 0.5), k=0
    )
    assert weighted.tolist() == [
        [2 / 1 + 0.5 / 4, 2 / 4 + 0.5 / 1, 2 / 3 + 0.5 / 2, 2 / 2 + 0.5 / 3]
    ]


def test_normalised_scores_by_value() -> None:
    first, second = [-3, 1, -1, 1], [10, 30, 20, 20]
    assert fused(first, second, method="min_max").tolist() == [[2, 0, 1, 0.5]]
    assert fused(first, second, method="min_max", weights=(1, 3)).tolist() == [[4, 0, 2, 1.5]]
    # Means -0.5 and 20, variances (6.25 + 2.25 + 0.25 + 2.25) / 4 = 2.75 and (100 + 100) / 4 = 50.
    expected = [
        2 * 2.5 / 2.75**0.5 + 10 / 50**0.5,
        2 * -1.5 / 2.75**0.5 - 10 / 50**0.5,
        2 * 0.5 / 2.75**0.5,
        2 * -1.5 / 2.75**0.5,
    ]
    scores = fused(first, second, method="z_score", weights=(2, 1))
    np.testing.assert_allclose(scores, [expected], rtol=1e-14, atol=1e-15)


# Printed by ranx 0.3.21, fuse(): rrf; min-max and wsum; zmuv and wsum, weights 1 and 0.25.
RANX = {
    "rrf": [
        0.03149801587301587, 0.03177805800756621, 0.031544957774465976, 0.031754032258064516,
        0.031054405392392875, 0.030798389007344232, 0.030536130536130537,
    ],
    "min_max": [
        0.9347826086956521, 1.1782608695652175, 0.5217391304347827, 0.8195652173913045,
        0.8586956521739132, 0.2217391304347826, 0.558695652173913,
    ],
    "z_score": [
        0.642856239978595, 1.3970836433861467, -0.6372118345646832, 0.28607397274391916,
        0.4032497627863334, -1.5678301117084945, -0.5242216726218174,
    ],
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_another_library_says_the_same(method: str) -> None:
    scores = fused(
        [0.31, 0.05, 0.72, 0.44, 0.18, 0.97, 0.60],
        [5.0, 9.5, 1.25, 2.0, 30.0, 4.5, 12.0],
        method=method,
        weights=None if method == "rrf" else (1, 0.25),
    )
    np.testing.assert_allclose(scores, [RANX[method]], rtol=1e-13)


def test_reciprocal_ranks_are_those_of_exact_fractions() -> None:
    sources = [tied_keys(seed) for seed in (1, 2, 3)]
    ids = np.random.default_rng(4).permutation(60)
    scores = fused(*sources, items=ids, method="rrf")
    for query, row in enumerate(scores):
        sums = [Fraction(0)] * 60
        for keys in sources:
            listed = sorted(range(60), key=lambda i: (keys[query, i], ids[i]))
            for rank, i in enumerate(listed, start=1):
                sums[i] += Fraction(1, 60 + rank)
        np.testing.assert_allclose(row, [float(one) for one in sums], rtol=4e-16)


@pytest.mark.parametrize("method", METHODS)
def test_one_extractor_keeps_its_order(method: str) -> None:
    keys = tied_keys(5)
    ids = np.random.default_rng(6).permutation(60)
    scores = fused(keys, items=ids, method=method)
    for before, after in zip(keys, scores, strict=True):
        assert (np.lexsort((ids, -after)) == np.lexsort((ids, before))).all()


@pytest.mark.parametrize("method", METHODS)
def test_weight_0_leaves_an_extractor_out(method: str) -> None:
    keys, useless = tied_keys(7), np.full((5, 60), np.nan)
    with_it = fused(useless, keys, method=method, weights=(0, 2))
    assert (with_it == 2 * fused(keys, method=method)).all()


@pytest.mark.parametrize("method", METHODS)
def test_order_of_extractors_and_rows_is_nothing(method: str) -> None:
    # Weights and keys that are no sums of few powers of two, so that the order of adding shows.
    sources = [np.random.default_rng(seed).random((5, 60)) for seed in (8, 9, 10)]
    weights = (0.1, 0.7, 0.3)
    scores = fused(*sources, method=method, weights=weights)
    turned = fused(*sources[::-1], method=method, weights=weights[::-1])
    assert (turned == scores).all()
    rows = np.random.default_rng(11).permutation(60)
    permuted = fused(*(s[:, rows] for s in sources), items=rows, method=method, weights=weights)
    assert (permuted == scores[:, rows]).all()


@pytest.mark.parametrize("change", [lambda x: x**3, lambda x: np.exp(4 * x), lambda x: 7 * x - 2])
def test_reciprocal_ranks_ignore_the_scale(change: Callable[[Any], Any]) -> None:
    first, second = tied_keys(12), tied_keys(13)
    assert (fused(change(first), second, method="rrf") == fused(first, second, method="rrf")).all()


@pytest.mark.parametrize("method", ["min_max", "z_score"])
def test_normalised_scores_ignore_unit_and_zero(method: str) -> None:
    first, second = tied_keys(14), tied_keys(15)
    changed = fused(1000 * first + 3, second, method=method)
    np.testing.assert_allclose(changed, fused(first, second, method=method), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_chunks_give_the_exact_keys_but_for_rounding(method: str) -> None:
    sources = [tied_keys(16), tied_keys(17)]
    whole = all_exact(fuse(*sources, method=method))
    scores = fuse(*sources, method=method)
    for start, stop in ((0, 2), (2, 5), (1, 2)):
        keys, bounds = scores.chunk(start, stop)
        assert keys.dtype == np.float32
        off = np.abs(keys - whole[start:stop]).max(axis=1)
        assert (off == bounds).all()
        assert (bounds < 2e-7 * np.abs(whole[start:stop]).max(axis=1)).all()
        keys[:] = np.inf  # the caller's to write to
        assert (all_exact(scores) == whole).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [1, 3])
def test_evaluation_takes_fused_scores(method: str, chunk: int) -> None:
    rng = np.random.default_rng(18)
    sources = []
    for dim in (3, 8):
        vectors = rng.integers(-1, 2, (45, dim)).astype(np.float32)
        sources.append(VectorScores(vectors[:5], [vectors[5:]], metric=Metric.INNER_PRODUCT))
    ids = rng.permutation(40)
    scores = FusedScores(sources, items=ids, fusion=Fusion(method=method))
    person = rng.integers(0, 3, 45)
    query = Labels(person=person[:5], camera=np.full(5, -1), item=np.arange(100, 105))
    gallery = Labels(person=person[5:], camera=np.full(40, -1), item=ids)
    found = ranks_of_relevant(
        scores, query, gallery, same_camera=True, same_item=False, chunk=chunk
    )
    expected = [
        1 + np.flatnonzero(gallery.person[np.lexsort((ids, keys))] == one)
        for keys, one in zip(all_exact(scores), query.person, strict=True)
    ]
    assert found.ranks.tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize("method", ["min_max", "z_score"])
def test_an_extractor_that_cannot_tell_says_nothing(method: str) -> None:
    # The mean of three times 0.1 is not 0.1 in double precision.
    alike, keys = np.full((2, 3), 0.1), np.array([[1, 2, 3], [0.1, 0.1, 0.1]])
    scores = fused(alike, keys, method=method)
    assert (scores == fused(keys, method=method)).all()
    assert (scores[1] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_gallery(method: str) -> None:
    keys, bounds = fuse(np.empty((2, 0)), np.empty((2, 0)), method=method).chunk(0, 2)
    assert keys.shape == (2, 0)
    assert bounds.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ({"method": "borda"}, "one of rrf, min_max, z_score, got 'borda'"),
        ({"method": "rrf", "k": -1}, "a whole k from 0 up, got -1"),
        ({"method": "rrf", "k": True}, "a whole k from 0 up, got True"),
        ({"method": "rrf", "k": 1.5}, "a whole k from 0 up, got 1.5"),
        ({"method": "rrf", "weights": (1, -1)}, r"finite weights of 0 or more.*got \(1, -1\)"),
        ({"method": "rrf", "weights": (0, 0)}, "one of them above 0"),
        ({"method": "rrf", "weights": (1, np.inf)}, "finite weights"),
        ({"method": "rrf", "weights": ()}, "one of them above 0"),
    ],
)
def test_fusions_that_make_no_sense(fusion: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Fusion(**fusion)


def test_extractors_that_do_not_fit_together() -> None:
    three, four = np.zeros((2, 3)), np.zeros((2, 4))
    with pytest.raises(UsageError, match="1 ranks 3 items for 2 queries, extractor 2 4 for 2"):
        fuse(three, four, method="rrf")
    with pytest.raises(UsageError, match="1 ranks 3 items for 2 queries, extractor 2 3 for 1"):
        fuse(three, three[:1], method="rrf")
    with pytest.raises(UsageError, match="3 weights for 2 extractors"):
        fuse(three, three, method="rrf", weights=(1, 1, 1))
    with pytest.raises(UsageError, match="4 item ids for 3 gallery rows"):
        fuse(three, items=np.arange(4), method="rrf")
    with pytest.raises(UsageError, match="one extractor or more, got none"):
        FusedScores([], items=np.arange(3), fusion=Fusion(method="rrf"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_keys_that_are_no_numbers(bad: float) -> None:
    keys = np.zeros((2, 3))
    keys[1, 2] = bad
    scores = fuse(np.zeros((2, 3)), keys, method="rrf")
    assert np.isfinite(scores.chunk(0, 1)[0]).all()
    with pytest.raises(NotFiniteError, match=r"extractor 2 of the fusion has .* for query 1"):
        scores.chunk(0, 2)

"""`same_person`, `group_people`: distances, both rules, ties, what is refused, memory."""

import tracemalloc

import numpy as np
import pytest

from reid_index import Fingerprint, Gallery, SamePairs, group_people, same_person
from reid_index.errors import DimensionMismatch, NotFiniteError, UsageError
from reid_index.evaluation.decide import Distances, Rule, decide


def at_degrees(*degrees):
    """Vectors (n, 2) of different lengths in these directions."""
    angles = np.radians(degrees)
    lengths = 1 + np.arange(len(degrees))
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]).astype("f4")


def pairs(found):
    return list(zip(found.a.tolist(), found.b.tolist(), strict=True))


def by_hand(vectors, pictures, distance):
    """The matrix in float64, NaN within a picture."""
    wide = np.asarray(vectors, np.float64)
    if distance == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        matrix = 1 - wide @ wide.T
    else:
        matrix = np.sqrt(((wide[:, None] - wide) ** 2).sum(axis=2))
    pictures = np.asarray(pictures)
    matrix[pictures[:, None] == pictures] = np.nan
    return matrix


@pytest.fixture
def crowd():
    rng = np.random.default_rng(3)
    return rng.normal(size=(40, 6)).astype("f4"), np.sort(rng.integers(1, 9, 40))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_distances_are_what_they_are_said_to_be(crowd, distance):
    vectors, pictures = crowd
    distances = Distances(vectors, pictures, distance=distance)
    rows = np.stack([distances.row(person) for person in range(len(distances))])
    np.testing.assert_allclose(rows, by_hand(vectors, pictures, distance), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(rows, rows.T)  # to the last bit
    np.testing.assert_array_equal(distances.row(7, start=9), rows[7, 9:])
    assert rows.dtype == np.float32


def test_cosine_distance_is_one_minus_the_similarity_of_a_gallery(crowd, tmp_path):
    vectors, pictures = crowd
    fingerprint = Fingerprint(name="external:x", version="1")
    gallery = Gallery.create(tmp_path / "g", dim=6, fingerprint=fingerprint)
    gallery.add(vectors)
    found = {match.item: match.similarity for match in gallery.search(vectors[4], k=40).matches}
    row = Distances(vectors, pictures).row(4)
    others = np.flatnonzero(~np.isnan(row))
    assert len(others) > 30
    assert row[others].tolist() == [np.float32(1) - np.float32(found[one]) for one in others]


@pytest.mark.parametrize(("distance", "threshold"), [("cosine", 0.45), ("euclidean", 2.1)])
def test_a_threshold_finds_just_the_pairs_within_it(crowd, distance, threshold):
    vectors, pictures = crowd
    found = same_person(vectors, pictures, distance=distance, threshold=threshold)
    matrix = by_hand(vectors, pictures, distance)
    wanted = np.argwhere(np.triu(matrix <= threshold))  # NaN is not within
    assert len(wanted) > 10
    assert pairs(found) == [tuple(pair) for pair in wanted.tolist()]
    np.testing.assert_allclose(found.distance, matrix[found.a, found.b], atol=1e-6)


def test_a_distance_of_just_the_threshold_is_within_it():
    found = same_person([[0, 0], [3, 4], [3, 5]], [1, 2, 3], distance="euclidean", threshold=5)
    assert pairs(found) == [(0, 1), (1, 2)]
    found = same_person([[0, 0], [3, 4]], [1, 2], distance="euclidean", threshold=0)
    assert pairs(found) == []


def test_without_a_rule_a_similarity_of_80_percent_is_the_same_person():
    below, above = np.degrees(np.arccos([0.801, 0.799]))
    assert pairs(same_person(at_degrees(0, below), [1, 2])) == [(0, 1)]
    assert pairs(same_person(at_degrees(0, above), [1, 2])) == []


def test_people_of_one_picture_are_never_the_same():
    vectors = np.ones((4, 2))
    assert pairs(same_person(vectors, [1, 1, 2, 2])) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert pairs(same_person(vectors, [5, 5, 5, 5])) == []
    assert pairs(same_person(vectors, [1, 1, 2, 2], nearest=9)) == [
        *((0, 2), (0, 3), (1, 2), (1, 3)),
        *((2, 0), (2, 1), (3, 0), (3, 1)),
    ]


def test_the_nearest_are_each_ones_own_and_nearest_first(crowd):
    vectors, pictures = crowd
    found = same_person(vectors, pictures, nearest=3)
    matrix = by_hand(vectors, pictures, "cosine")
    wanted = [(a, int(b)) for a in range(40) for b in np.argsort(matrix[a])[:3]]
    assert pairs(found) == wanted
    assert any((b, a) not in wanted for a, b in wanted)  # it is not mutual


def test_equally_near_ones_come_in_the_order_of_their_rows():
    vectors = np.concatenate([at_degrees(0, 40, 10), np.tile([[2, 1], [2, -1]], (100, 1))])
    found = same_person(vectors, np.arange(len(vectors)), nearest=150)
    assert pairs(found)[:150] == [(0, 2), *((0, row) for row in range(3, 152))]


def test_decisions_say_what_was_not_decided_to_be_the_same():
    distances = Distances(at_degrees(0, 0, 40, 5), [1, 1, 2, 3])
    later = decide(distances, Rule(threshold=0.1), 0)
    assert (later.others.tolist(), later.same.tolist()) == ([2, 3], [False, True])
    assert later.distance.tolist() == pytest.approx(
        [1 - np.cos(np.radians(40)), 1 - np.cos(np.radians(5))], abs=1e-6
    )
    everybody = decide(distances, Rule(nearest=1), 3)
    assert (everybody.others.tolist(), everybody.same.tolist()) == ([0, 1, 2], [True, False, False])


# Groups


def grouped(vectors, pictures, **rule):
    return group_people(same_person(vectors, pictures, **rule), pictures).tolist()


def test_groups_join_over_a_third():
    assert grouped(at_degrees(0, 90, 30, 15), [1, 2, 3, 4], threshold=0.04) == [0, 1, 0, 0]


def test_a_group_has_nobody_twice_from_one_picture():
    """0 and 1 are in picture 1; 2 is near both, nearer to 1."""
    assert grouped(at_degrees(0, 20, 11), [1, 1, 2], threshold=0.1) == [0, 1, 1]
    # 4, of the same picture as 0 and 1, is nearer still.
    vectors = at_degrees(0, 20, 11, 14, 12)
    assert grouped(vectors, [1, 1, 2, 3, 1], threshold=0.1) == [0, 1, 2, 2, 2]


def test_no_group_has_a_picture_twice_whoever_is_near(crowd):
    vectors, pictures = crowd
    groups = np.array(grouped(vectors, pictures, threshold=1.2))
    for group in range(groups.max() + 1):
        members = pictures[groups == group]
        assert len(set(members)) == len(members)
    assert groups[0] == 0
    first = [int(np.flatnonzero(groups == group)[0]) for group in range(groups.max() + 1)]
    assert first == sorted(first)
    assert len(first) < 20


def test_pairs_equally_near_are_joined_in_the_order_of_their_rows():
    """1 is as near to 0 as to 2 of the same picture as 0."""
    assert grouped(at_degrees(-10, 0, 10), [1, 2, 1], threshold=0.1) == [0, 0, 1]


def test_nobody_found_is_everybody_alone():
    none = SamePairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    assert group_people(none, [1, 1, 2]).tolist() == [0, 1, 2]
    assert group_people(none, np.empty(0, np.int64)).tolist() == []


# What is refused, and memory


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threshold": 0.1, "nearest": 2}, "one of the two"),
        ({"threshold": float("nan")}, "from 0, not nan"),
        ({"threshold": -0.1}, "from 0, not -0.1"),
        ({"threshold": float("inf")}, "from 0, not inf"),
        ({"nearest": 0}, "1 or more, not 0"),
        ({"distance": "euclidean"}, "no threshold fits"),
        ({"distance": "inner_product", "threshold": 1}, "there are cosine, euclidean"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options, text):
    with pytest.raises(UsageError, match=text):
        same_person(np.eye(2), [1, 2], **options)


@pytest.mark.parametrize(
    ("vectors", "pictures", "error", "text"),
    [
        ([1, 2], [1, 2], DimensionMismatch, r"\(n, D\), got int64 \(2,\)"),
        ([["a"], ["b"]], [1, 2], DimensionMismatch, "numbers"),
        (np.eye(2), [1], UsageError, "2 vectors need as many pictures"),
        (np.eye(2), [1.5, 2.5], UsageError, "whole numbers"),
        ([[1, 0], [0, np.nan]], [1, 2], NotFiniteError, "vector 1 .* holds NaN"),
        ([[1e300, 0], [0, 1]], [1, 2], NotFiniteError, "vector 0 .* too large"),
        ([[1, 0], [0, 0]], [1, 2], NotFiniteError, "vector 1 .* has length 0"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(vectors, pictures, error, text):
    with pytest.raises(error, match=text):
        same_person(vectors, pictures)


def test_length_0_has_a_euclidean_distance():
    found = same_person([[0, 0], [0, 1]], [1, 2], distance="euclidean", threshold=1)
    assert pairs(found) == [(0, 1)]


def test_nobody_and_one_alone_have_no_pairs():
    assert pairs(same_person(np.empty((0, 3)), np.empty(0, int))) == []
    assert pairs(same_person(np.ones((1, 3)), [1], nearest=2)) == []


def test_the_matrix_is_never_held():
    count = 3000
    vectors = np.random.default_rng(0).normal(size=(count, 8)).astype("f4")
    told = []
    tracemalloc.start()
    try:
        same_person(vectors, np.arange(count), threshold=0.001, progress=told.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(told) == count
    assert peak < 4 * count * count / 8

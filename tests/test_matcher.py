"""What a matcher says, in JSON and out of it."""

import re
from typing import Any

import pytest

from reid_index import Matcher
from reid_index.errors import FormatTooNew, UsageError
from reid_index.matcher import HEAVIEST, told


@pytest.mark.parametrize("weight", [1.0, 0.25, 3, HEAVIEST])
def test_it_comes_back_from_json(weight: float) -> None:
    matcher = Matcher(name="aligned", weight=weight)
    assert matcher.to_json() == {"name": "aligned", "weight": weight}
    assert Matcher.from_json(matcher.to_json()) == matcher


@pytest.mark.parametrize("head", [(0.5, -1e9, 0, 1e-300), [3]])
def test_one_of_frames_comes_back_from_json(head: Any) -> None:
    matcher = Matcher(name="coattention", head=head, bias=-2.5)
    said = {"name": "coattention", "head": list(map(float, head)), "bias": -2.5}
    assert matcher.to_json() == said
    assert Matcher.from_json(said) == matcher
    assert hash(matcher) == hash(Matcher.from_json(said))
    assert matcher.of_frames
    assert not Matcher(name="aligned").of_frames
    assert told(matcher) == f"coattention over frames, {len(head)} dimensions"


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_one_of_visible_parts_comes_back_from_json(distance: str) -> None:
    matcher = Matcher(name="visibility", distance=distance)
    assert matcher.to_json() == {"name": "visibility", "distance": distance}
    assert Matcher.from_json(matcher.to_json()) == matcher
    assert (matcher.has_visible, matcher.of_frames) == (True, False)
    assert not Matcher(name="aligned").has_visible
    assert told(matcher) == f"visibility parts, {distance} distance"


@pytest.mark.parametrize("distance", ["Cosine", "", None, 1, ["cosine"]])
def test_there_are_two_distances(distance: Any) -> None:
    with pytest.raises(UsageError, match=r"the matcher's distance is .*, not cosine or euclidean"):
        Matcher(name="visibility", distance=distance)


@pytest.mark.parametrize("fields", [{"weight": 2.0}, {"head": (1.0,)}, {"bias": 1.0}])
def test_one_of_visible_parts_has_a_distance_alone(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="visibility has distance: leave the rest out"):
        Matcher(name="visibility", **fields)


@pytest.mark.parametrize("name", ["Aligned", "", "dmli"])
def test_there_are_three_names(name: str) -> None:
    named = re.escape(f"no matcher {name!r}; there is aligned, coattention, visibility") + "$"
    with pytest.raises(UsageError, match=named):
        Matcher(name=name)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"head": ()}, "the matcher's head is .*, not 1 to 65536 numbers"),
        ({"head": 3}, "the matcher's head is 3, not 1 to"),
        ({"head": (1.0, float("nan"))}, "head is nan, not a finite number"),
        ({"head": (1.0, True)}, "head is True, not a finite number"),
        ({"head": (2e9,)}, "head is 2"),
        ({"head": (1.0,), "bias": float("inf")}, "bias is inf"),
        ({"head": (1.0,), "bias": "1"}, "bias is '1'"),
        ({"head": (1.0,) * 65_537}, "not 1 to 65536"),
        ({"head": (1.0,), "weight": 2.0}, "coattention has head, bias: leave the rest out"),
    ],
)
def test_a_head_is_finite_numbers(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Matcher(name="coattention", **fields)


@pytest.mark.parametrize("fields", [{"head": (1.0,)}, {"bias": 1.0}, {"distance": "euclidean"}])
def test_one_of_parts_has_no_head(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="aligned has weight: leave the rest out"):
        Matcher(name="aligned", **fields)


@pytest.mark.parametrize("weight", [0, -1, HEAVIEST * 2, float("nan"), float("inf"), True, "1"])
def test_a_weight_is_a_number_above_0(weight: Any) -> None:
    with pytest.raises(UsageError, match=r"^the matcher's weight is "):
        Matcher(name="aligned", weight=weight)


@pytest.mark.parametrize(
    "data",
    [
        None,
        7,
        "aligned",
        [],
        {},
        {"name": "aligned"},
        {"weight": 1.0},
        {"name": 7, "weight": 1.0},
        {"name": "\ud800", "weight": 1.0},
        {"name": "aligned", "weight": None},
        {"name": "aligned", "weight": "1"},
        {"name": "aligned", "weight": True},
        {"name": "aligned", "weight": 0},
        {"name": "aligned", "weight": -1.0},
        {"name": "aligned", "weight": 1e999},
        {"name": "aligned", "weight": 10**400},
        {"name": "aligned", "weight": [1.0]},
        {"name": "coattention", "weight": 1.0},
        {"name": "coattention", "head": [1.0]},
        {"name": "coattention", "head": 1.0, "bias": 0},
        {"name": "coattention", "head": [], "bias": 0},
        {"name": "coattention", "head": ["1"], "bias": 0},
        {"name": "coattention", "head": [[1.0]], "bias": 0},
        {"name": "coattention", "head": [1.0], "bias": None},
        {"name": "visibility"},
        {"name": "visibility", "weight": 1.0},
        {"name": "visibility", "distance": "moons"},
        {"name": "visibility", "distance": 1},
        {"name": "visibility", "distance": None},
    ],
)
def test_what_is_no_matcher_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"matcher|weight|head|bias|distance|surrogates"):
        Matcher.from_json(data)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"name": "moons", "weight": 1.0}, r"the matcher 'moons', .* upgrade reid-index"),
        ({"name": "aligned", "weight": 1.0, "of": 2}, r"know \('of'\); upgrade reid-index"),
        ({"name": "coattention", "head": [1], "bias": 0, "weight": 1}, r"know \('weight'\)"),
        ({"name": "visibility", "distance": "cosine", "weight": 1}, r"know \('weight'\)"),
    ],
)
def test_what_is_newer_is_said_to_be(data: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatTooNew, match=named):
        Matcher.from_json(data)

"""What a matcher says, in JSON and out of it."""

import re
from typing import Any

import pytest

from reid_index import Matcher
from reid_index.errors import FormatTooNew, UsageError
from reid_index.matcher import HEAVIEST


@pytest.mark.parametrize("weight", [1.0, 0.25, 3, HEAVIEST])
def test_it_comes_back_from_json(weight: float) -> None:
    matcher = Matcher(name="aligned", weight=weight)
    assert matcher.to_json() == {"name": "aligned", "weight": weight}
    assert Matcher.from_json(matcher.to_json()) == matcher


@pytest.mark.parametrize("name", ["Aligned", "", "dmli"])
def test_there_is_one_name(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"no matcher {name!r}; there is aligned")):
        Matcher(name=name)


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
    ],
)
def test_what_is_no_matcher_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"matcher|weight|surrogates"):
        Matcher.from_json(data)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"name": "moons", "weight": 1.0}, r"the matcher 'moons', .* upgrade reid-index"),
        ({"name": "aligned", "weight": 1.0, "of": 2}, r"know \('of'\); upgrade reid-index"),
    ],
)
def test_what_is_newer_is_said_to_be(data: dict[str, Any], named: str) -> None:
    with pytest.raises(FormatTooNew, match=named):
        Matcher.from_json(data)

"""`reid inspect --attributes`: what is known of attributes, how surely, and who says so."""

import json
from pathlib import Path

import pytest
from cli_world import run, succeed
from conftest import FINGERPRINT, ROWS

from reid_index import Gallery

MODEL = "model a 1 0123456789ab"


@pytest.fixture
def g(tmp_path: Path, quick_disk: None) -> Path:
    """Of six items: hats by a model, one corrected; colours of three."""
    with Gallery.create(tmp_path / "g", dim=3, fingerprint=FINGERPRINT) as gallery:
        for _ in range(2):
            gallery.add(ROWS)
        sure = [0.5, 0.55, 0.56, 0.95, 1.0]
        hats = [
            {"item": item, "attr.hat": "no" if item < 4 else "yes", "attr.hat.confidence": one}
            for item, one in enumerate(sure)
        ]
        gallery.set_attributes(hats, origin=MODEL)
        colors = [["red"], ["blue", "red"], ["black"]]
        said = [{"item": item, "attr.color": one} for item, one in enumerate(colors)]
        gallery.set_attributes(said)
        gallery.set_attributes([{"item": 0, "attr.hat": "yes"}], origin="person")
    return tmp_path / "g"


def test_attributes_as_json(g: Path) -> None:
    facts = json.loads(succeed("inspect", g, "--attributes", "--format", "json").stdout)
    assert facts["items"] == 6
    assert facts["edges"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
    hat, color = facts["attributes"]
    assert hat == {
        "name": "hat",
        "sets": False,
        "known": 5,
        "unknown": 1,
        "words": {"no": 3, "yes": 2},
        "origins": {MODEL: 4, "person": 1},
        "certain": 1,
        "confidence": [0, 2, 0, 0, 0, 0, 0, 0, 1, 1],
    }
    assert (color["sets"], color["known"], color["certain"]) == (True, 3, 3)
    assert color["words"] == {"red": 2, "black": 1, "blue": 1}
    assert next(iter(color["words"])) == "red"
    assert color["confidence"] == [0] * 10


def test_attributes_as_a_table(g: Path) -> None:
    head, hat, color = succeed("inspect", g, "--attributes").stdout.splitlines()
    assert " ".join(head.split()) == "attribute known unknown words certain sure 0.5…1 by"
    assert "no 3, yes 2" in hat
    assert "·█······▄▄" in hat
    assert hat.endswith(f"{MODEL} 4, person 1")
    assert " ".join(color.split()) == "color 3 3 red 2, black 1, blue 1 3 - label 3"


def test_bins_begin_at_0_where_a_confidence_is_below_a_half(g: Path) -> None:
    with Gallery.open(g) as gallery:
        said = [{"item": 5, "attr.hat": "no", "attr.hat.confidence": 0.05}]
        gallery.set_attributes(said, origin=MODEL)
    facts = json.loads(succeed("inspect", g, "--attributes", "--format", "json").stdout)
    assert facts["edges"][:2] == [0.0, 0.1]
    assert facts["attributes"][0]["confidence"] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 2]


def test_a_gallery_without_any_says_so(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=3, fingerprint=FINGERPRINT) as gallery:
        gallery.add(ROWS)
    result = succeed("inspect", tmp_path / "g", "--attributes")
    assert result.stdout == "no attribute is known of any item: `reid attributes` tells them\n"


def test_what_items_were_added_with_is_counted_too(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dim=3, fingerprint=FINGERPRINT) as gallery:
        gallery.add(ROWS, [{"attr.hat": "yes", "attr.age": 30}, {"attr.hat": "no"}, {}])
    facts = json.loads(
        succeed("inspect", tmp_path / "g", "--attributes", "--format", "json").stdout
    )
    assert facts["attributes"][0]["origins"] == {"label": 2}
    assert facts["attributes"][1]["words"] == {"30": 1}


def test_history_and_attributes_are_two_questions(g: Path) -> None:
    result = run("inspect", g, "--attributes", "--history")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "two questions" in result.stderr


def test_history_and_facts_tell_of_overlays(g: Path) -> None:
    told = json.loads(succeed("inspect", g, "--history", "--format", "json").stdout)
    assert [(one["what"], one["told"]) for one in told][3:] == [
        ("attributes", 5),
        ("attributes", 3),
        ("attributes", 1),
    ]
    assert "5 told" in succeed("inspect", g, "--history").stdout
    assert "\noverlays          3\n" in succeed("inspect", g).stdout

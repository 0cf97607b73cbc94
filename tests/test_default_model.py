"""The model that comes along: small, with a card that tells what it may be used for, and as good on
people it has never seen as the card says."""

from pathlib import Path

import numpy as np
import pytest
from cli_world import succeed

from cli.sides import split_pictures
from cli.world import draw_world
from extractors import open_extractor
from extractors.images import read_image
from extractors.trained import DEFAULT, read_card
from extractors.training.crops import read_labelled
from reid_index import Gallery, evaluate_distances
from reid_index.files import sha256_file

MARKET = Path(__file__).parents[1] / "../shared/data/market1501"


def test_it_is_small_and_says_what_it_is() -> None:
    assert DEFAULT.stat().st_size <= 5_000_000
    card = read_card(DEFAULT)
    assert "research only" in card["licence"]
    assert "Market-1501" in card["data"]
    assert card["figures"].keys() == {"mAP", "rank-1"}
    assert card["training"]["seconds"] > 0


def test_builds_take_it_where_nothing_else_is_named(tmp_path: Path) -> None:
    draw_world(tmp_path / "crops", people=3, cameras=2, crops_per_camera=1, seed=1)
    succeed("build", tmp_path / "crops", "--out", tmp_path / "g")
    with Gallery.open(tmp_path / "g") as gallery:
        said = gallery.fingerprint
        assert (said.name, said.weights_sha256) == ("trained", sha256_file(DEFAULT))
        assert gallery.manifest.recipe["weights"] is None
    picture = sorted((tmp_path / "crops").iterdir())[0]
    result = succeed("query", tmp_path / "g", picture, "--top", "1", "--format", "csv")
    assert picture.name in result.stdout


@pytest.mark.skipif(not MARKET.exists(), reason="Market-1501 is not here")
def test_it_finds_people_it_has_never_seen() -> None:
    """Rank-1 and mAP on query and gallery of the split whose `train` it has learnt from."""
    extractor = open_extractor("trained")
    vectors, persons, cameras = [], [], []
    for part in ("query", "gallery"):
        folder, split = MARKET / "bounding_box_train", MARKET / "dev-split.csv"
        people = read_labelled([split_pictures(folder, split, part)]).people
        found = [
            extractor.extract([read_image(one.path) for one, _ in people[at : at + 64]]).global_
            for at in range(0, len(people), 64)
        ]
        joined = np.concatenate(found)
        vectors.append(joined / np.linalg.norm(joined, axis=1, keepdims=True))
        persons.append([person.columns["person"] for _, person in people])
        cameras.append([person.columns["camera"] for _, person in people])
    measured = evaluate_distances(1 - vectors[0] @ vectors[1].T, *persons, *cameras)
    figures = read_card(DEFAULT)["figures"]
    assert measured.mAP == pytest.approx(figures["mAP"], abs=3e-3)
    assert measured.cmc[0] == pytest.approx(figures["rank-1"], abs=1e-2)
    assert measured.mAP >= 0.45
    assert measured.cmc[0] >= 0.70

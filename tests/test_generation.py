"""Re-ranking while a gallery changes: each answer is of one generation, and a graph of its rows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import FINGERPRINT

from reid_index import Gallery, Reranking
from reid_index.errors import CorruptGallery, NoGraph
from reid_index.reranking import graph

SMALL = Reranking(k1=5, k2=3)


@pytest.fixture
def gallery(make_gallery: Callable[..., Gallery], rng: np.random.Generator) -> Gallery:
    made = make_gallery(dim=8)
    made.add(rng.normal(size=(60, 8)))
    return made


def test_a_graph_of_rows_that_have_grown_meanwhile_is_stale(
    gallery: Gallery, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = graph.make_graph

    def slow(*arguments: object, **options: object) -> graph.Graph:
        gallery.add(rng.normal(size=(10, 8)))
        return make(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(graph, "make_graph", slow)
    gallery.build_graph(SMALL)
    monkeypatch.undo()
    assert gallery.is_stale("graph")
    assert gallery.graph is None
    assert len(gallery.search(np.ones(8), k=70, rerank=SMALL).matches) == 70


def test_a_reader_keeps_the_graph_that_others_replace(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.build_graph(SMALL)
    expected = gallery.search(np.ones(8), rerank=SMALL)
    folder = gallery.attached("graph")
    assert folder is not None
    monkeypatch.setattr(
        "reid_index.reranking.rerank_gallery.AT_ONCE", 10
    )  # none is made for a query
    with Gallery.open(gallery.path) as reader:
        gallery.build_graph(Reranking(k1=4, k2=2))
        gallery.attach("calibration", lambda path: (path / "c.json").touch(), generation=2)
        found = reader.search(np.ones(8), rerank=SMALL)
        assert [match.item for match in found.matches] == [match.item for match in expected.matches]
        assert folder.exists()
        assert reader.refresh()
        gallery.attach("calibration", lambda path: (path / "c.json").touch(), generation=2)
        assert not folder.exists()
        with pytest.raises(NoGraph, match="has a neighbour graph for k1 = 4 and too many items"):
            reader.search(np.ones(8), rerank=SMALL)


def test_nothing_allowed_is_an_empty_answer_whatever_the_graph(tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "g", dim=2, fingerprint=FINGERPRINT)
    gallery.add([[1, 0], [0, 1]], [{"camera": 1}, {"camera": 2}])
    result = gallery.search([1, 0], rerank=Reranking(), where="camera = 9")
    assert result.matches == ()
    assert result.note == "only 0 match: 0 of 2 items are allowed"


def test_a_gallery_stays_prepared_for_few_parameters(gallery: Gallery) -> None:
    for lambda_ in np.linspace(0, 1, 9).tolist():
        gallery.search(np.ones(8), rerank=Reranking(k1=5, k2=3, lambda_=lambda_))
    assert len(gallery._generation._prepared) == 4
    assert gallery.reranking(SMALL) is gallery.reranking(SMALL)


def test_a_graph_gone_from_the_folder_is_told(gallery: Gallery) -> None:
    gallery.build_graph(SMALL)
    opened = Gallery.open(gallery.path)
    shutil.rmtree(gallery.path / "attached")
    with pytest.raises(CorruptGallery, match=r"graph\.\w+ is gone; `reid graph` makes it again"):
        _ = opened.graph

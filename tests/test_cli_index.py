"""`reid index`: what it says of what it built."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from click.testing import CliRunner
from threadpoolctl import threadpool_limits

from cli.index import _KINDS
from cli.main import main
from reid_index import Gallery
from reid_index.index_build import KINDS

DIM = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Faiss and BLAS start threads for loops of microseconds, which takes far longer."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def gallery(make_gallery: Callable[..., Gallery], rng: np.random.Generator) -> Gallery:
    gallery = make_gallery(dim=DIM)
    people = np.repeat(rng.standard_normal((120, DIM)), 10, axis=0)
    gallery.add(people + 0.2 * rng.standard_normal((1200, DIM)))
    return gallery


def test_it_says_what_was_built_and_how_good_it_is(gallery: Gallery) -> None:
    done = CliRunner().invoke(
        main, ["index", str(gallery.path), "--kind", "ivf-sq8", "--recall", "0.9"]
    )
    assert (done.exit_code, done.stdout) == (0, "")
    first, second = done.stderr.splitlines()
    start = re.escape(f"{gallery.path}: ivf-sq8 index of 1,200 items, built in ")
    assert re.fullmatch(rf"{start}\d+\.\d s, tuned in \d+\.\d s", first)
    index = Gallery.open(gallery.path).index
    assert index is not None
    effort = next(
        entry.effort
        for entry in index.facts.tuned
        if (entry.share, entry.k, entry.wanted) == (1.0, 10, 0.9)
    )
    said = f"recall@10 where a filter allows a share of them: {effort.recall:.3f} of 100%"
    assert second.startswith(said)


def test_it_says_when_the_recall_was_not_reached(
    make_gallery: Callable[..., Gallery], rng: np.random.Generator
) -> None:
    gallery = make_gallery(dim=DIM)
    gallery.add(rng.standard_normal((1200, DIM)))  # nobody is near anybody
    request = ["index", str(gallery.path), "--kind", "ivf", "--recall", "0.999"]
    done = CliRunner().invoke(main, request)
    assert done.exit_code == 0
    second = done.stderr.splitlines()[1]
    assert second == "recall@10 of 0.999 not reached: all is compared exactly"


def test_flat_and_auto_say_that_nothing_was_built(gallery: Gallery) -> None:
    for kind, words in (("flat", ""), ("auto", ", comparing every allowed one being the better")):
        done = CliRunner().invoke(main, ["index", str(gallery.path), "--kind", kind])
        assert done.exit_code == 0
        assert f"no index of 1,200 items was built{words}" in done.stderr
    assert Gallery.open(gallery.path).attached("index") is None


def test_wrong_requests(gallery: Gallery) -> None:
    done = CliRunner().invoke(main, ["index", str(gallery.path), "--recall", "1"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "a recall of 1 cannot be tuned for" in done.stderr
    done = CliRunner().invoke(main, ["index", str(gallery.path), "--kind", "lsh"])
    assert done.exit_code == 2


def test_the_kinds_are_those_of_the_core() -> None:
    assert _KINDS == KINDS

"""`reid index`: what it says of what it built."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cli.index import KINDS as CHOICES
from cli.main import main
from reid_index import Gallery
from reid_index.search.index_build import KINDS

DIM = 16


pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize("kind", ["flat", "auto"])
def test_flat_and_auto_say_that_a_former_one_was_removed(gallery: Gallery, kind: str) -> None:
    gallery.attach("index", lambda folder: (folder / "index.json").touch(), generation=1)
    done = CliRunner().invoke(main, ["index", str(gallery.path), "--kind", kind])
    assert done.exit_code == 0
    assert done.stderr.endswith("; the former one was removed\n")
    assert Gallery.open(gallery.path).attached("index") is None


@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_a_damaged_index_is_said_and_made_again(gallery: Gallery, damage: str) -> None:
    path = str(gallery.path)
    request = ["index", path, "--kind", "ivf"]
    assert CliRunner().invoke(main, request).exit_code == 0
    folder = gallery.path / "attached/000002-index"
    file = folder / "index.faiss"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:100])
    query = ["query", path, "--item", "0"]
    assert CliRunner().invoke(main, query).exit_code == 0
    asked = CliRunner().invoke(main, [*query, "--recall", "0.9"])
    assert (asked.exit_code, asked.stderr.count("\n")) == (1, 1)
    verified = CliRunner().invoke(main, ["verify", path])
    assert verified.exit_code == 1
    inspected = CliRunner().invoke(main, ["inspect", path])
    assert inspected.exit_code == 0
    words = "is gone" if damage == "remove" else f"has 100 bytes, not {len(content)}"
    remedy = "; `reid index` makes it again"
    assert asked.stderr == f"reid: {file} {words}{remedy}\n"
    assert f"index attached/000002-index (damaged: {file} {words}{remedy})" in inspected.stdout
    assert verified.stdout.startswith(f"{file}: ")
    assert verified.stdout.endswith(f"{remedy}\n")
    assert verified.stderr.endswith("where a command is named, it or --repair makes it again\n")
    assert CliRunner().invoke(main, request).exit_code == 0
    assert CliRunner().invoke(main, ["verify", path]).exit_code == 0


def test_inspect_says_what_index_there_is(gallery: Gallery, rng: np.random.Generator) -> None:
    about = {
        "kind": "ivf-pq",
        "rows": 1200,
        "recall_wanted": 0.9,
        "recall_reached": {"at 10": {"0.05": 0.91, "1": 0.9876, "0.3": 0.95}, "at 20": {"1": 0.9}},
    }
    assert inspected(gallery, "index") is None
    assert re.search(r"^index +-$", inspected_table(gallery), re.MULTILINE)

    def write(folder: Path) -> None:
        (folder / "index.json").touch()

    gallery.attach("index", write, generation=1, about=about)
    line = (
        "ivf-pq, 1,200 of 1,200 items; recall@10 wanted 0.9, reached where a filter allows a share "
        "of them: 0.988 of 100%, 0.950 of 30%, 0.910 of 5%"
    )
    assert re.search(rf"^index +{re.escape(line)}$", inspected_table(gallery), re.MULTILINE)
    gallery.add(rng.standard_normal((34, DIM)))
    table = inspected_table(gallery)
    assert re.search(r"^index +ivf-pq, 1,200 of 1,234 items; recall", table, re.MULTILINE)
    assert "of 5%; 34 later items are compared beside it\n" in table
    assert inspected(gallery, "index") == {
        "kind": "ivf-pq",
        "items": 1200,
        "later_items": 34,
        "recall_wanted": 0.9,
        "recall_reached": about["recall_reached"],
    }
    gallery.attach("index", write, generation=1, about={**about, "recall_reached": {"at 10": {}}})
    assert "share of them: nowhere; 34 later" in inspected_table(gallery)
    gallery.attach("index", write, generation=1)  # by another program, which says nothing of it
    assert re.search(r"^index +of unknown kind, 1,200 of", inspected_table(gallery), re.MULTILINE)


def inspected_table(gallery: Gallery) -> str:
    done = CliRunner().invoke(main, ["inspect", str(gallery.path)])
    assert done.exit_code == 0
    return done.stdout


def inspected(gallery: Gallery, fact: str) -> Any:
    done = CliRunner().invoke(main, ["inspect", str(gallery.path), "--format", "json"])
    return json.loads(done.stdout)[fact]


def test_wrong_requests(gallery: Gallery) -> None:
    done = CliRunner().invoke(main, ["index", str(gallery.path), "--recall", "1"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "a recall of 1 cannot be tuned for" in done.stderr
    done = CliRunner().invoke(main, ["index", str(gallery.path), "--kind", "lsh"])
    assert done.exit_code == 2


def test_the_kinds_are_those_of_the_core() -> None:
    assert CHOICES == KINDS


def test_build_makes_an_index_too(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "few.npy", rng.normal(size=(50, DIM)))
    np.save(tmp_path / "many.npy", rng.normal(size=(1200, DIM)))

    def build(name: str, kind: str) -> str:
        arguments = ["build", tmp_path / f"{name}.npy", "--out", tmp_path / f"{name}-{kind}"]
        result = CliRunner().invoke(
            main, [*map(str, arguments), "--extractor", "external:x", "--index", kind]
        )
        assert result.exit_code == 0, result.stderr
        return result.stderr

    assert "no index: fewer than 1,000 items need none" in build("few", "ivf")
    assert "comparing every allowed one being the better choice" in build("few", "auto")
    assert "ivf-sq8 index of 1,200 items, built in" in build("many", "ivf-sq8")
    index = Gallery.open(tmp_path / "many-ivf-sq8").index
    assert index is not None
    assert (index.kind, index.rows) == ("ivf-sq8", 1200)
    assert Gallery.open(tmp_path / "few-ivf").index is None

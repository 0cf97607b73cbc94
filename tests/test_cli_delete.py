"""`reid delete`, `reid compact` and what `reid inspect` tells of generations."""

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cli_world import ENVIRONMENT, REID, assert_refused, run, succeed, tree
from conftest import FINGERPRINT, contents, ids

from reid_index import Gallery

READ = "import sys; from reid_index import Gallery; gallery = Gallery.open(sys.argv[1]); "
READ += "print('reading', flush=True); sys.stdin.read()"

STAYS = "the bytes of deleted ones stay in it until `reid compact`"


@pytest.fixture
def g(tmp_path):
    """Twelve items in two additions: 0 to 7 of the persons a, b, c, d (twice each) in the cameras
    1 and 2, 8 to 11 of nobody known and no known camera."""
    rng = np.random.default_rng(5)
    path = tmp_path / "g"
    with Gallery.create(path, dim=4, fingerprint=FINGERPRINT) as gallery:
        known = [
            {"source": f"{person}{camera}.jpg", "person": person, "camera": camera}
            for person in "abcd"
            for camera in (1, 2)
        ]
        gallery.add(rng.standard_normal((8, 4)), known)
        gallery.add(rng.standard_normal((4, 4)), [{"source": f"x{n}.jpg"} for n in range(4)])
    return path


def left(path):
    with Gallery.open(path) as gallery:
        return ids(gallery)


@contextmanager
def reader(path):
    """A process that holds the present generation; its id."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [REID[0], "-c", READ, path]
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes) as process:
        assert process.stdout.readline() == "reading\n"
        yield process.pid
        process.stdin.close()


# Deleting


def test_what_an_expression_and_items_name_is_deleted(g):
    result = succeed("delete", g, "--where", "person = 'b' OR camera = 1", "--item", "11")
    assert result.stdout == ""
    assert result.stderr == (
        f"{g}: 6 items deleted, 6 left; {STAYS}, and without a --receipt their erasure cannot be "
        "proven later\n"
    )
    assert left(g) == [1, 5, 7, 8, 9, 10]
    listed = succeed("query", g, "--item", "1", "--format", "jsonl").stdout.splitlines()
    assert {json.loads(line)["item"] for line in listed} <= {1, 5, 7, 8, 9, 10}
    assert_refused(run("query", g, "--item", "0"), code=2, text="there is no item 0")


def test_nothing_that_is_like_that_is_no_failure_and_changes_nothing(g):
    before = tree(g)
    result = succeed("delete", g, "--where", "person = 'z'")
    assert result.stderr == f"{g}: no item is like that; nothing was deleted\n"
    assert tree(g) == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "say what is to be deleted: --where EXPR, --item N, or both"),
        (["--item", "99"], "there is no item 99"),
        (["--item", "1", "--item", "99", "--dry-run"], "there is no item 99"),
        (["--item", "1", "--dry-run", "--receipt", "r.json"], "--dry-run deletes nothing"),
        (["--item", "1", "--receipt", "g/r.json"], "is inside the gallery"),
    ],
)
def test_wrong_usage_deletes_nothing(g, monkeypatch, options, text):
    monkeypatch.chdir(g.parent)
    before = tree(g.parent)
    assert_refused(run("delete", "g", *options), code=2, text=text)
    assert tree(g.parent) == before


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_expression_that_cannot_be_read_shows_the_place(g, more):
    result = run("delete", g, "--where", "person == = 1", *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[1:] == ["  person == = 1", " " * 12 + "^"]


def test_a_dry_run_tells_and_deletes_nothing(g):
    before = tree(g)
    where = "person IN ('a', 'c') OR source < 'b' OR camera IS NULL"
    result = succeed("delete", g, "--where", where, "--item", "2", "--dry-run")
    assert result.stderr == ""
    assert result.stdout == (
        "items    9\n"
        "cameras  1: 3, 2: 2, unknown: 4\n"
        "persons  a: 2, c: 2, b: 1, unknown: 4\n"
        "sources  a1.jpg\n"
        "         a2.jpg\n"
        "         b1.jpg\n"
        "         c1.jpg\n"
        "         c2.jpg\n"
        "         x0.jpg\n"
        "         x1.jpg\n"
        "         x2.jpg\n"
        "         x3.jpg\n"
    )
    assert succeed("delete", g, "--where", "person = 'z'", "--dry-run").stdout == "items  0\n"
    everything = succeed("delete", g, "--where", "item >= 0", "--dry-run").stdout
    assert everything.endswith("x1.jpg\n         … and 2 more\n")
    assert tree(g) == before


def test_a_graph_that_is_stale_now_is_told(g):
    succeed("graph", g, "--k1", "2", "--k2", "1")
    result = succeed("delete", g, "--item", "3")
    assert "its neighbour graph is stale now; `reid graph` or `reid compact`" in result.stderr


# Compacting


def test_compacting_erases_and_merges_and_makes_again(g):
    succeed("graph", g, "--k1", "2", "--k2", "1")
    succeed("delete", g, "--where", "person = 'a'")
    assert any(b"a1.jpg" in content for content in contents(g).values())
    before = sum(map(len, contents(g).values()))
    result = succeed("compact", g)
    freed = before - sum(map(len, contents(g).values()))
    assert result.stderr == ""
    assert result.stdout == (
        f"{g}:\n"
        "items       10\n"
        "removed     2 deleted items\n"
        "shards      2 before, 1 now\n"
        f"freed       {freed:,} bytes\n"
        "made again  graph\n"
    )
    assert left(g) == list(range(2, 12))
    assert not any(b"a1.jpg" in content for content in contents(g).values())
    with Gallery.open(g) as gallery:
        assert gallery.graph is not None
    succeed("verify", g)


def test_what_is_not_to_be_made_again_is_left_out(g):
    succeed("graph", g, "--k1", "2", "--k2", "1")
    succeed("delete", g, "--item", "0")
    result = succeed("compact", g, "--no-remake")
    assert re.search(r"^left out +graph: ", result.stdout, re.MULTILINE)
    assert not re.search(r"^made again", result.stdout, re.MULTILINE)
    assert Gallery.open(g).attached("graph") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock")
def test_what_a_reader_holds_is_pending_until_it_has_ended(g):
    with reader(g) as process:
        succeed("delete", g, "--item", "0")
        result = run("compact", g)
        assert result.exit_code == 1
        assert result.stdout.startswith(
            f"{g}:\n"
            "items     11\n"
            "left out  1 deleted item, gone from the folder when their readers have ended\n"
        )
        name = Path(f"/proc/{process}/comm").read_text().strip()
        assert result.stderr == (
            f"erasure pending: generation 2 is held by {process} ({name}); run `reid compact` "
            "again once they have ended or refreshed\n"
        )
        assert any(b"a1.jpg" in content for content in contents(g).values())
    result = succeed("compact", g)
    assert result.stderr == ""
    assert not any(b"a1.jpg" in content for content in contents(g).values())


# History


def test_history_tells_what_made_each_generation(g):
    with Gallery.open(g) as gallery:
        gallery.attach("index", lambda folder: (folder / "i").touch(), generation=2)
    succeed("delete", g, "--where", "camera = 1")
    succeed("compact", g)
    lines = succeed("inspect", g, "--history").stdout.splitlines()
    assert lines[0].split() == ["generation", "created", "what", "rows", "items", "held", "by"]
    rows = [re.split(r" {2,}", line) for line in lines[1:]]
    assert [row[:1] + row[2:] for row in rows] == [
        ["0", "create", "-", "0", "-"],
        ["1", "add", "8 added", "8", "-"],
        ["2", "add", "4 added", "12", "-"],
        ["3", "attach index", "-", "12", "-"],
        ["4", "delete", "4 deleted", "8", "-"],
        ["5", "compact", "4 removed", "8", "-"],
    ]
    for row in rows:
        age = datetime.now(UTC) - datetime.strptime(row[1], "%Y-%m-%dT%H:%M:%SZ").replace(
            tzinfo=UTC
        )
        assert timedelta(0) <= age < timedelta(minutes=5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock")
def test_history_and_facts_tell_who_reads_which_generation(g):
    with reader(g) as process:
        succeed("delete", g, "--item", "0")
        records = json.loads(succeed("inspect", g, "--history", "--format", "json").stdout)
        assert [one["held_by"] for one in records] == [[], [], [process], []]
        assert records[3] | {"created": None} == {
            "generation": 3,
            "created": None,
            "what": "delete",
            "kind": None,
            "added": 0,
            "deleted": 1,
            "removed": 0,
            "told": 0,
            "items": 11,
            "held_by": [],
        }
        facts = json.loads(succeed("inspect", g, "--format", "json").stdout)
        assert facts["held"] == {"2": [process]}
        line = re.search(r"^held +(.*)$", succeed("inspect", g).stdout, re.MULTILINE)[1]
        assert line.startswith(f"generation 2 by {process} (")


def test_facts_count_what_is_not_deleted_and_say_what_is(g):
    about = {"kind": "hnsw", "recall_wanted": 0.95, "recall_reached": {"at 10": {"1.0": 0.98}}}
    with Gallery.open(g) as gallery:
        gallery.attach("index", lambda folder: (folder / "i").touch(), generation=1, about=about)
    succeed("delete", g, "--item", "0", "--item", "1", "--item", "8")
    facts = json.loads(succeed("inspect", g, "--format", "json").stdout)
    assert (facts["items"], facts["deleted"], facts["format"]) == (9, 3, "1.6")
    assert facts["cameras"] == {"1": 3, "2": 3}
    assert (facts["index"]["items"], facts["index"]["later_items"]) == (6, 3)
    table = succeed("inspect", g).stdout
    assert "\ndeleted           3, whose bytes stay until `reid compact`\n" in table
    assert "\nindex             hnsw, 6 of 9 items; recall@10 wanted 0.95" in table

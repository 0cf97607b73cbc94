"""`reid inspect`, `verify`, `extractors`, `demo`, the help and --debug; read-only galleries."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cli_world import ENVIRONMENT, REID, Sheet, assert_refused, run, succeed, tree
from conftest import no_privileges

from cli.main import main
from cli.progress import progress_bar
from cli.world import draw_world
from extractors import DESCRIPTIONS
from reid_index import Gallery


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `crops` of drawn people and the gallery `g` of them."""
    folder = tmp_path_factory.mktemp("place")
    draw_world(folder / "crops", people=3, cameras=2, crops_per_camera=2, seed=1)
    succeed("build", "--extractor", "stripes", folder / "crops", "--out", folder / "g")
    return folder


# Galleries that are damaged or read-only


@pytest.mark.parametrize(
    "name",
    [
        "CURRENT",
        "manifest-000001.json",
        "shards/000001/vectors.h5",
        "shards/000001/items.parquet",
        "shards/000001/shard.json",
    ],
)
def test_verify_names_the_file_with_a_flipped_byte(place, tmp_path, name):
    shutil.copytree(place / "g", tmp_path / "g")
    path = tmp_path / "g" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = run("verify", tmp_path / "g")
    assert result.exit_code == 1
    assert str(path) in result.stdout + result.stderr
    assert result.stderr.startswith("reid: ")
    assert result.stderr.count("\n") == 1
    assert path.read_bytes() == data


def test_verify_says_what_is_whole(place):
    files = [*(place / "g" / "shards" / "000001").iterdir(), place / "g" / "manifest-000000.json"]
    total = sum(path.stat().st_size for path in files)
    items = len(list((place / "crops").iterdir()))
    result = succeed("verify", place / "g")
    assert result.stdout == f"{place}/g is whole: {items} items, 4 files, {total:,} bytes\n"
    assert result.stderr == ""


@pytest.fixture
def read_only(place):
    """A folder that nobody may write to, with the gallery `g` and a folder `in` of crops."""
    # Not tmp_path: the folders above that are closed to others.
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(place / "g", folder / "g")
    shutil.copytree(place / "crops", folder / "in")
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in paths:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_without_write_permission_a_gallery_is_read_and_a_build_refused(place, read_only):
    gallery = read_only / "g"
    before = tree(read_only)
    query = ["query", gallery, "--item", "0", "--format", "csv"]
    expected = succeed(*query).stdout
    picture = sorted((read_only / "in").iterdir())[0]
    vector = Gallery.open(gallery).vectors([0])
    with no_privileges():
        assert run(*query).stdout == expected
        assert run("query", gallery, picture).exit_code == 0
        assert run("inspect", gallery).exit_code == run("verify", gallery).exit_code == 0
        refused = [
            run("build", "--extractor", "stripes", read_only / "in", "--out", read_only / "new")
        ]
        refused.append(run(*query, "--out", read_only / "answer.csv"))
        with pytest.raises(PermissionError):
            Gallery.open(gallery).add(vector)
    for result in refused:
        assert_refused(result, code=1, text="Permission denied")
    assert tree(read_only) == before


# The other commands


def test_inspect_as_json_has_the_facts(place):
    facts = json.loads(succeed("inspect", place / "g", "--format", "json").stdout)
    names = sorted(path.name for path in (place / "crops").iterdir())
    cameras = {camera: sum(f"_c{camera}s" in name for name in names) for camera in "12"}
    assert facts["items"] == len(names)
    assert facts["cameras"] == cameras
    assert facts["persons_labelled"] == 3
    assert (facts["generation"], facts["metric"], facts["dimensions"]) == (1, "cosine", 912)
    assert facts["extractor"]["name"] == "stripes"
    columns = {column["name"]: column for column in facts["columns"]}
    assert columns["person"] == {
        "name": "person",
        "type": "string",
        "known": len(names),
        "unknown": 0,
    }
    assert columns["track"]["unknown"] == len(names)


def test_inspect_as_a_table_says_the_same(place):
    lines = succeed("inspect", place / "g").stdout.splitlines()
    assert f"items             {len(list((place / 'crops').iterdir()))}" in lines
    assert any(re.fullmatch(r"track +string +0 +12", line) for line in lines)


def test_extractors_are_listed_by_name(place):
    result = succeed("extractors")
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(DESCRIPTIONS)
    assert "external:NAME" in result.stderr


def demo(folder, *more):
    return run("demo", "--out", folder, "--people", "4", "--cameras", "2", *more)


def test_the_demo_says_it_is_synthetic_and_where_its_sheet_is(tmp_path):
    folder = tmp_path / "demo"
    result = demo(folder)
    assert result.exit_code == 0, result.stderr
    assert "of 4 synthetic people in 2 cameras" in result.stdout
    assert result.stdout.endswith(f"The sheet of answers, all synthetic: {folder}/sheet.html\n")
    assert "nobody is real" in (folder / "SYNTHETIC.txt").read_text()
    page = Sheet((folder / "sheet.html").read_text(encoding="utf-8"))
    ranks = [int(rank) for rank, *_ in page.cards]
    assert ranks == list(range(1, 13))
    assert page.query_pictures == 1
    assert all(shown and verdict != "unknown" for *_, verdict, shown in page.cards)
    # What it prints as commands gives what it printed as their answer.
    command = re.search(r"^\$ reid (query .* --top 10)$", result.stdout, re.MULTILINE)[1]
    assert succeed(*shlex.split(command)).stdout in result.stdout


def test_the_demo_can_be_run_again_and_after_it_was_broken_off(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr("cli.world.draw_crop", lambda **_: 1 / 0)
        assert demo(folder).exit_code == 1
    first, second = demo(folder, "--seed", "5"), demo(folder, "--seed", "6")
    assert first.exit_code == second.exit_code == 0
    assert len({path.name for path in folder.iterdir()}) == 4
    assert first.stdout != second.stdout


def test_the_demo_refuses_a_folder_that_is_something_else(tmp_path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "mine.jpg").write_bytes(b"dear to me")
    before = tree(tmp_path)
    assert_refused(demo(tmp_path), code=2, text="holds something else than a demo")
    assert tree(tmp_path) == before


# Help, faults, debugging


def reid(*arguments, code="from cli.main import main; main()"):
    command = [REID[0], "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


def test_help_imports_nothing_heavy():
    code = (
        "import atexit, sys; from cli.main import main; "
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    result = reid("--help", code=code)
    assert result.stdout.startswith("Usage: ")
    loaded = set(result.stderr.split())
    assert {"click", "cli.main"} <= loaded
    heavy = {"torch", "numpy", "pyarrow", "onnxruntime", "openvino", "faiss", "h5py", "PIL"}
    assert loaded & heavy == set()


def test_every_command_has_a_whole_line_of_help():
    listed = succeed("--help").stdout.split("Commands:\n")[1].splitlines()
    lines = dict(line.split(maxsplit=1) for line in listed)
    assert (
        sorted(lines)
        == sorted(main.commands)
        == sorted(
            [
                "add",
                "build",
                "compact",
                "delete",
                "rebuild",
                "query",
                "track",
                "graph",
                "explain",
                "match",
                "evaluate",
                "calibrate",
                "costs",
                "index",
                "inspect",
                "attributes",
                "judge-attributes",
                "train",
                "verify",
                "demo",
                "extractors",
            ]
        )
    )
    for text in lines.values():
        assert text.endswith(".")
        assert not text.endswith("...")
    for name in lines:
        assert succeed(name, "--help").stdout.startswith(f"Usage: main {name} ")


def test_wrong_usage_ends_with_2():
    for arguments in (
        ["build", "--out", "x"],
        ["build", "x"],
        ["query", "g", "--colour"],
        ["dream"],
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Error: " in result.stderr


def test_debug_shows_the_traceback_and_nothing_else_does(tmp_path):
    plain, debug = (reid(*more, "inspect", tmp_path / "no") for more in ([], ["--debug"]))
    assert plain.stderr == f"reid: {tmp_path}/no: there is no such folder; reid build makes one\n"
    assert debug.stderr.startswith("Traceback (most recent call last):")
    assert "GalleryNotFound: " in debug.stderr.splitlines()[-1]
    assert (plain.returncode, debug.returncode) == (1, 1)


def test_a_fault_of_our_own_is_called_one(place, monkeypatch):
    def fail(path):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(Gallery, "open", fail)
    result = run("inspect", place / "g")
    assert_refused(result, code=1, text="this is a fault of reid-index (RuntimeError: two�lines)")


def test_progress_in_a_log_is_whole_lines(capsys):
    with progress_bar(4, unit="crop") as bar:
        bar.delay = 0
        bar.refresh()
        bar.clear()
        print("skipped", file=sys.stderr)
        bar.update(4)
        bar.refresh()
    first, skipped, *_, last = capsys.readouterr().err.rstrip("\n").split("\n")
    assert first.startswith("0%|")
    assert skipped == "skipped"
    assert last.startswith("100%|")
    assert "4/4" in last

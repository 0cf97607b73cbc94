"""Who may import whom, and what must not be loaded before it is used."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import reid_index
import reid_index.upkeep.verify

REPOSITORY = Path(__file__).parents[1]
HEAVY = {
    "av",
    "cv2",
    "extractors",
    "faiss",
    "h5py",
    "jinja2",
    "lark",
    "matplotlib",
    "numba",
    "numpy",
    "onnxruntime",
    "openvino",
    "PIL",
    "pyarrow",
    "scipy",
    "supervision",
    "torch",
    "tqdm",
    "trackers",
}
LOADED_LATE = {
    f"cli/{name}.py"
    for name in (
        *("agreeing", "crowd", "explained", "figure", "formats", "heat_sheet", "item_sheet"),
        *("judge", "judge_report"),
        *("judge_filter", "judge_tracks", "question"),
        *("match_formats", "matrix", "plots", "report", "sheet", "sides", "target", "world"),
        *("strips", "timeline", "video_formats", "video_sheet", "video_target"),
    )
}
EXTRACTORS_MAY = {
    "attributes",
    *("errors", "files", "fingerprint", "matcher", "metric", "reading"),
    *("store.items", "store.shard", "store.tracks", "store.vectors"),
}


def files(package: str) -> list[Path]:
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert found
    return found


def imported(tree: ast.AST, *, package: str, everywhere: bool) -> Iterator[str]:
    """Absolute dotted names that a file of a package imports; only what runs when the file is
    imported, unless everywhere."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) + 1 - node.level], *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif everywhere or not (is_for_types(node) or is_function(node)):
            yield from imported(node, package=package, everywhere=everywhere)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_of(path: Path, *, everywhere: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    package = ".".join(path.relative_to(REPOSITORY).parent.parts)
    return set(imported(tree, package=package, everywhere=everywhere))


def top_level(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_reading_imports() -> None:
    text = """
import a.b
from . import c
from .d import e
from .. import k
from ..l import m
if TYPE_CHECKING:
    import f
def late():
    import g
class Here:
    import h
try:
    from i import j
except ImportError:
    pass
"""
    now = {"a.b", "p.q.c", "p.q.d.e", "p.k", "p.l.m", "h", "i.j"}
    assert set(imported(ast.parse(text), package="p.q", everywhere=False)) == now
    assert set(imported(ast.parse(text), package="p.q", everywhere=True)) == now | {"f", "g"}


@pytest.mark.parametrize("path", files("reid_index"), ids=lambda path: path.name)
def test_the_core_imports_nothing_above_it(path: Path) -> None:
    above = {"extractors", "cli", "benchmarks", "tests", "onnxruntime", "openvino"}
    assert top_level(imports_of(path, everywhere=True)) & above == set()
    # Triton comes with torch; its kernels have to stand where a file begins.
    late = {"torch"} if path.name == "device_kernel.py" else {"torch", "triton"}
    assert top_level(imports_of(path, everywhere=False)) & late == set()


def test_only_files_for_devices_use_torch() -> None:
    users = [
        str(path.relative_to(REPOSITORY / "reid_index"))
        for path in files("reid_index")
        if "torch" in top_level(imports_of(path, everywhere=True))
    ]
    assert users == [
        "reranking/rerank_torch.py",
        "search/aligned_torch.py",
        "search/device_kernel.py",
        "search/device_part.py",
        "search/device_rows.py",
        "search/visibility_torch.py",
    ]


GROUPS = {
    "store": set(),
    "filters": {"store"},
    "search": {"filters", "store"},
    "reranking": {"search", "store"},
    "erasure": {"reranking", "search", "store"},
    "evaluation": {"gallery", "search"},
    "upkeep": {"filters", "gallery", "reranking", "store"},
}
"""Group of the core → what its files may import when they are imported, but for their own and the
foundation: files beside the groups that import none of them."""


@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_the_core_build_on_each_other_one_way(group: str) -> None:
    upper = {*GROUPS, "gallery", "generation"}
    for path in files(f"reid_index/{group}"):
        names = imports_of(path, everywhere=False)
        used = {name.split(".")[1] for name in names if name.startswith("reid_index.")}
        assert (used & upper) - {group} <= GROUPS[group], path.name


def test_there_is_no_file_of_the_core_without_its_place() -> None:
    foundation = {path for path in (REPOSITORY / "reid_index").glob("*.py")}
    foundation -= {REPOSITORY / "reid_index" / f"{name}.py" for name in ("gallery", "generation")}
    for path in foundation - {REPOSITORY / "reid_index" / "__init__.py"}:
        names = imports_of(path, everywhere=True)
        used = {name.split(".")[1] for name in names if name.startswith("reid_index.")}
        assert used & {*GROUPS, "gallery", "generation"} == set(), path.name
    folders = {path.name for path in (REPOSITORY / "reid_index").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == GROUPS.keys()


@pytest.mark.parametrize("path", files("extractors"), ids=lambda path: path.name)
def test_extractors_know_only_the_records_of_the_core(path: Path) -> None:
    names = imports_of(path, everywhere=True)
    assert top_level(names) & {"cli", "benchmarks", "tests", "faiss"} == set()
    core = {name.removeprefix("reid_index.") for name in names if name.startswith("reid_index.")}
    assert {name for name in core if not known(name)} == set()
    assert "reid_index" not in names


def known(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in EXTRACTORS_MAY)


WRITING = {
    *("chmod", "copyfile", "copytree", "hardlink_to", "makedirs", "mkdir", "remove", "removedirs"),
    *("rename", "rmdir", "rmtree", "symlink_to", "touch", "truncate", "unlink", "write_bytes"),
    "write_text",
}


def changes_of(path: Path) -> set[str]:
    """What a file of the core calls that changes a disk, by name, but for calls of `files`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = [call.func for call in calls if isinstance(call.func, ast.Attribute)]
    found = {one.attr for one in named if ast.unparse(one.value) != "files"} & WRITING
    modes = [
        ast.unparse(arg)
        for call in calls
        if ast.unparse(call.func).endswith("open")
        for arg in (*call.args, *(word.value for word in call.keywords))
    ]
    return found | {mode for mode in modes if re.fullmatch(r"'[rwax+bt]*[wax+][rwax+bt]*'", mode)}


def test_only_one_file_changes_what_is_on_the_disk() -> None:
    """Costs are kept with the user's caches, and a receipt is outside the gallery."""
    writers = {path.name for path in files("reid_index") if changes_of(path)}
    assert writers - {"costs.py", "receipt.py"} == {"files.py"}


def test_only_one_file_imports_faiss() -> None:
    users = [
        str(path.relative_to(REPOSITORY))
        for package in ("reid_index", "extractors", "cli")
        for path in files(package)
        if "faiss" in top_level(imports_of(path, everywhere=True))
    ]
    assert users == ["reid_index/search/index.py"]


@pytest.mark.parametrize("path", files("cli"), ids=lambda path: path.name)
def test_commands_import_heavy_things_when_they_run(path: Path) -> None:
    if str(path.relative_to(REPOSITORY)) not in LOADED_LATE:
        names = imports_of(path, everywhere=False)
        assert top_level(names) & HEAVY == set()
        late = {f"cli.{Path(name).stem}" for name in LOADED_LATE}
        assert {".".join(name.split(".")[:2]) for name in names} & late == set()
        core = {name for name in names if name.startswith("reid_index")}
        assert all(name.startswith("reid_index.errors") for name in core)


@pytest.mark.parametrize("module", ["reid_index", "reid_index.errors", "cli.main"])
def test_what_is_loaded_at_first(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert loaded & (HEAVY - {"extractors"}) == set()
    assert "extractors" not in loaded
    assert ("cli" in loaded) == module.startswith("cli")


def test_exact_searching_needs_neither_torch_nor_faiss(tmp_path: Path) -> None:
    loaded = modules_after(
        "from reid_index import Fingerprint, Gallery, verify_gallery\n"
        "fingerprint = Fingerprint(name='x', version='1')\n"
        f"gallery = Gallery.create({str(tmp_path / 'g')!r}, dim=1, fingerprint=fingerprint)\n"
        "gallery.add([[1]] * 30)\n"
        "assert len(gallery.search([1], k=1, where='camera IS NULL').matches) == 1\n"
        "assert verify_gallery(gallery) == []\n"
    )
    assert {"numba", "lark"} <= loaded
    others = {"torch", "faiss", "extractors", "cli", "onnxruntime", "openvino", "PIL"}
    assert loaded & others == set()


def modules_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after code."""
    code += "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_public_names_are_sorted_and_all_there() -> None:
    assert reid_index.__all__ == sorted(reid_index.__all__)
    assert set(reid_index.__all__) == set(reid_index._HOME)
    for name, home in reid_index._HOME.items():
        value = getattr(reid_index, name)
        assert value.__module__ == f"reid_index.{home}"
        assert value.__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = reid_index.nothing

"""The wheel holds the three packages with their data, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths in the wheel, built from a copy so that nothing is left in the tree."""
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel needs setuptools")
    source = tmp_path_factory.mktemp("source")
    for package in ("reid_index", "extractors", "cli", "benchmarks", "tests"):
        shutil.copytree(
            REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, source / file)
    wheels = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--no-index", "--disable-pip-version-check", "--wheel-dir", str(wheels), "."],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [wheel] = wheels.iterdir()
    assert wheel.name == "reid_index-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level_names(names: set[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    assert top == {"reid_index", "extractors", "cli", "reid_index-0.1.0.dist-info"}


def test_every_source_and_data_file_is_inside(names: set[str]) -> None:
    expected = {
        str(path.relative_to(REPOSITORY))
        for package in ("reid_index", "extractors", "cli")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == expected
    assert {"cli/sheet.html", "cli/py.typed", "extractors/py.typed"} <= packed
    assert "reid_index/py.typed" in packed


def test_the_licence_is_inside(names: set[str]) -> None:
    assert "reid_index-0.1.0.dist-info/licenses/LICENSE" in names

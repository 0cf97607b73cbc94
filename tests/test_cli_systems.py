"""Every system, on the command line: trained, built with, asked, evaluated."""

import json
from pathlib import Path

import pytest
from cli_world import run, succeed
from training_world import write_people

from extractors.systems import NAMES, OF_SEGMENTS

BUDGET = "--batch 4x2 --epochs 1 --pad 2 --warmup 0 --rate 0.002"
OPTIONS = {
    "mgn": "--backbone resnet18_x0_125 --input-size 96x32 --dim 8",
    "convnext_ap": "--backbone convnext_atto_x0_25_simam --input-size 64x32 --stripes 2 "
    "--loss triplet+circle",
    "haa": "--backbone resnet18_x0_125 --input-size 64x32 --dim 8",
    "bot": "--backbone resnet18_x0_125 --input-size 64x32",
    "plain": "--backbone osnet_x0_25 --input-size 64x32 --dim 16",
    "aligned": "--backbone resnet18_x0_125 --input-size 64x32 --stripes 4",
    "fls": "--backbone resnet18_x0_125 --input-size 64x32 --dim 8 --regions 3",
}
OF_STRIPES = "--backbone resnet18_x0_125 --input-size 64x32 --stripes 4 --dim 8"


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    write_people(folder / "known", range(1, 7), crops=4)
    write_people(folder / "held", range(11, 15), crops=4)
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_SEGMENTS])
def test_it_trains_builds_answers_and_is_evaluated(name: str, crops: Path, tmp_path: Path) -> None:
    model, gallery = tmp_path / "m.safetensors", tmp_path / "g"
    words = f"--system {name} {OPTIONS.get(name, OF_STRIPES)} {BUDGET}".split()
    succeed("train", crops / "known", "--out", model, *words)
    succeed("build", crops / "held", "--out", gallery, "--weights", model)
    target = sorted((crops / "held").iterdir())[0]
    lines = succeed("query", gallery, target, "--format", "jsonl", "--top", "3").stdout
    first = json.loads(lines.splitlines()[0])
    assert (first["source"], first["similarity"]) == (target.name, pytest.approx(1, abs=1e-5))
    found = json.loads(succeed("evaluate", gallery, gallery, "--format", "json").stdout)
    assert 0 < found["mAP"] <= 1


def test_stripes_that_do_not_fit_the_map_are_refused_in_a_line(crops: Path, tmp_path: Path) -> None:
    words = "--system pcb --backbone resnet18_x0_125 --input-size 64x32 --batch 4x2"
    result = run("train", crops / "known", "--out", tmp_path / "m.safetensors", *words.split())
    said = [line for line in result.stderr.splitlines() if line.startswith("reid: ")]
    assert result.exit_code == 2
    assert said == [
        "reid: a map of 4 rows cannot be cut into 6 equal stripes: give an --input-size of another "
        "height, or --stripes 1 or 2 or 4"
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--system pcbb", "no system 'pcbb'"),
        ("--system mgn --stripes 2", "mgn has no stripes to be counted"),
        ("--system pcb --no-neck", "pcb has no neck to leave out"),
        ("--system pcb --center 0.1", "no centres to learn"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    crops: Path, tmp_path: Path, words: str, text: str
) -> None:
    small = "--backbone resnet18_x0_125 --input-size 96x32 --batch 4x2"
    result = run(
        "train",
        crops / "known",
        "--out",
        tmp_path / "m.safetensors",
        *small.split(),
        *words.split(),
    )
    assert result.exit_code == 2
    assert text in result.stderr.splitlines()[-1]
    assert not (tmp_path / "m.safetensors").exists()

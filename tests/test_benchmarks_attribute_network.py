"""The benchmark of source 002's network: each step is trained, scored, judged, and not again."""

import json
from pathlib import Path

import torch
from click.testing import CliRunner
from training_world import write_people

from benchmarks.attribute_network import BASES, main


def test_each_step_is_scored_beside_what_it_adds_to(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "crops", range(1, 23), crops=4)
    rows = ["file,split"]
    for path in sorted(folder.iterdir()):
        held_out = "query" if "_c1" in path.name else "gallery"
        rows.append(f"{path.name},{held_out if int(path.name[:4]) > 18 else 'train'}")
    (tmp_path / "split.csv").write_text("\n".join(rows))
    labels = [f"{person:04d},{('no', 'yes')[person % 2]}" for person in range(1, 23)]
    (tmp_path / "labels.csv").write_text("\n".join(["person,hat", *labels]))
    out = tmp_path / "raw.json"
    words = ["--split", tmp_path / "split.csv", "--labels", tmp_path / "labels.csv", "--out", out]
    command = [str(one) for one in (folder, *words, "--seeds", 1, "--epochs", 1, "--dim", 8)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    told = [CliRunner().invoke(main, command) for _ in range(2)]
    torch.set_num_threads(threads)
    assert told[0].exception is None, told[0].output
    runs = json.loads(out.read_text())["runs"]
    assert {run["name"] for run in runs} == {"BoT", "BoT, 3 × the epochs", *BASES}
    judged = {run["name"]: run["attributes"] for run in runs if "attributes" in run}
    assert list(judged) == [
        "FLS, attributes of the whole, by parts",
        "FLS + ALM, by parts",
        "FLS + ALM + AWM, by parts",
    ]
    assert all(0 <= share <= 1 for one in judged.values() for share in one["hat"])
    # What is kept is not made again.
    assert (
        told[1].output
        == "\n".join(
            line for line in told[0].output.splitlines() if line.startswith("|") or not line
        )
        + "\n"
    )
    assert "| hat |" in told[1].output

"""Costs: measured, kept, and never another machine's or a damaged file's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import no_privileges

from reid_index import costs as module
from reid_index.costs import Costs, costs_file, measured_costs, present_costs, this_machine


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_known", {})
    return tmp_path


def file() -> Path:
    path = costs_file()
    assert path is not None
    return path


def test_few_rows_are_not_worth_measuring_and_many_are(empty: Path) -> None:
    typical = present_costs(1000)
    assert (typical.measured, typical.machine) == ("", this_machine())
    assert not file().exists()
    measured = present_costs(10**8)
    assert costs_file() == empty / "reid-index" / "costs.json"
    assert json.loads(file().read_text()) == vars(measured)
    assert present_costs(1000) is measured
    module._known.clear()
    assert present_costs(1000) == measured
    assert measured.measured > "2026"


def test_what_was_measured_is_the_cost_of_searching(empty: Path) -> None:
    """Nothing takes no time, or as much as a second for 1,000 rows; more rows take longer."""
    costs = measured_costs()
    for queries in (1, 8, 64):
        for half in (False, True):
            few, many = (
                costs.product(rows, 512, queries, listed=True, half=half)
                for rows in (1000, 100_000)
            )
            assert 1e-6 < few < 1
            assert few < many
        few, many = (costs.scan(rows, 512, queries, listed=False) for rows in (1000, 100_000))
        assert 1e-6 < few < many
    assert costs.scan_query > 0


def test_another_machines_costs_are_not_this_ones(empty: Path) -> None:
    other = replace(present_costs(0), machine="another", scan_query=0.5)
    file().parent.mkdir(parents=True)
    file().write_text(json.dumps(vars(other)))
    module._known.clear()  # as another process
    assert present_costs(0).scan_query < 0.5
    file().write_text(json.dumps(vars(replace(other, machine=this_machine()))))
    module._known.clear()
    assert present_costs(0).scan_query == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"machine": "x"}',
        "a cost of infinity",
        "a cost below 0",
        "a cost in words",
        "one too many",
    ],
)
def test_a_damaged_file_is_as_none(empty: Path, text: str) -> None:
    good = vars(present_costs(0))
    bad = {
        "a cost of infinity": {"scan_query": float("inf")},
        "a cost below 0": {"scan_query": -1.0},
        "a cost in words": {"scan_query": "little"},
        "one too many": {"colour": 1.0},
    }
    file().parent.mkdir(parents=True)
    file().write_text(json.dumps({**good, **bad[text]}) if text in bad else text)
    module._known.clear()
    assert vars(present_costs(0)) == good


def test_without_a_home_costs_serve_this_process(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    module._file_below.cache_clear()
    assert costs_file() is None
    assert present_costs(0).measured == ""
    measured = measured_costs()
    assert present_costs(0) is measured
    module._file_below.cache_clear()


def test_costs_that_cannot_be_kept_serve_this_process(
    public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(public_path))
    monkeypatch.setattr(module, "_known", {})
    public_path.chmod(0o555)
    with no_privileges():
        measured = measured_costs()
        assert isinstance(measured, Costs)
        assert not file().exists()
        assert present_costs(0) == measured
    public_path.chmod(0o755)

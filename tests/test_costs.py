"""Costs: measured, kept, and never another machine's or a damaged file's."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import no_privileges

from reid_index.search import costs as module
from reid_index.search.costs import Costs, costs_file, measured_costs, present_costs, this_machine


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
        "[" * 200_000,
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


def test_times_that_follow_the_formulas_give_the_costs_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = {
        "start_scan": 1e-5,
        "scan_listed": 3e-10,
        "scan_ordered": 2e-10,
        "scan_query": 4e-11,
        "start_product": 5e-5,
        "product_listed": 7e-10,
        "product_ordered": 6e-10,
        "product_widened": 8e-10,
        "product_query": 9e-12,
    }

    def seconds(blocks, queries, want, *, metric, scan, rows=None):
        [block], way = blocks, "scan" if scan else "product"
        count = len(block.vectors) if rows is None else len(rows)
        if count < 100:
            return wanted[f"start_{way}"]
        how = "widened" if block.vectors.dtype == "f2" else "ordered" if rows is None else "listed"
        each = wanted[f"{way}_{how}"] + len(queries) * wanted[f"{way}_query"]
        return count * queries.shape[1] * each

    monkeypatch.setattr(module, "candidates", seconds)
    monkeypatch.setattr(
        module, "_fastest", lambda searches: {name: search() for name, search in searches.items()}
    )
    measured = vars(module._measure())
    assert {name: measured[name] for name in wanted} == pytest.approx(wanted)


def test_threads_that_need_costs_at_once_measure_them_once(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Costs] = []

    def measure() -> Costs:
        time.sleep(0.05)
        made.append(module._typical())
        return made[-1]

    monkeypatch.setattr(module, "_measure", measure)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(present_costs, [10**9] * 4))
    assert len(made) == 1

"""The choice between ways to search: by costs, honestly told, and learning from doubted answers."""

from dataclasses import dataclass, replace

import pytest

from reid_index.errors import UsageError
from reid_index.search.costs import Costs
from reid_index.search.plan import Experience, Task, choose

COSTS = Costs(
    start_scan=10.0,
    scan_listed=0.4,
    scan_ordered=0.2,
    scan_query=0.1,
    start_product=20.0,
    product_listed=1.0,
    product_ordered=0.9,
    product_widened=1.1,
    product_query=0.01,
    machine="one made up for tests",
    measured="",
)
TASK = Task(allowed=100, rows=1000, dim=2, queries=1, k=10, half=False)


@dataclass(frozen=True)
class MadeUpEffort:
    rows_single: float
    rows_batch: float
    accepted: float = 1.0


@dataclass(frozen=True)
class MadeUpIndex:
    """Answers for every share above a half, as if each query took as long as comparing 7 rows, or
    3 in a batch."""

    rows: int = 1000

    def effort(self, *, share: float, recall: float, k: int) -> MadeUpEffort | None:
        return MadeUpEffort(rows_single=7, rows_batch=3) if share > 0.5 else None


def test_the_expected_seconds_are_those_of_the_formulas() -> None:
    plan = choose(TASK, COSTS, recall=None)
    assert plan.expected == pytest.approx(
        {
            "scan": 10 + 100 * 2 * (0.4 + 0.1),
            "gather": 20 + 100 * 2 * (1.0 + 0.01),
            "dense": 10 + 1000 * 2 * (0.2 + 0.1),
        }
    )
    assert (plan.path, plan.scan) == ("scan", True)


@pytest.mark.parametrize(
    ("changes", "path", "scan"),
    [
        ({"queries": 10}, "gather", False),  # 220 + 0.1·200·10 against 20 + 200·1.1
        ({"allowed": 700}, "dense", True),  # 710 against 610
        ({"allowed": 1000}, "dense", True),
        ({"allowed": 1000, "queries": 50}, "dense", False),
        ({"half": True}, "gather", False),
        ({"half": True, "allowed": 1000}, "dense", False),
    ],
)
def test_the_fastest_way_is_taken(changes: dict[str, int], path: str, scan: bool) -> None:
    plan = choose(replace(TASK, **changes), COSTS, recall=None)
    assert (plan.path, plan.scan) == (path, scan)
    assert plan.expected[path] == min(plan.expected.values())
    assert "scan" not in plan.expected or not changes.get("half")


def test_an_index_is_asked_only_where_its_recall_suffices_and_it_is_faster() -> None:
    task = replace(TASK, allowed=1000, indexed=1000)
    index = MadeUpIndex()
    asked = choose(task, COSTS, recall=0.9, index=index)  # type: ignore[arg-type]
    assert asked.path == "index"
    assert asked.effort == MadeUpEffort(7, 3)  # type: ignore[comparison-overlap]
    assert asked.expected["index"] == pytest.approx(10 + 7 * 2 * 0.3)
    batch = choose(replace(task, queries=8), COSTS, recall=0.9, index=index)  # type: ignore[arg-type]
    assert batch.expected["index"] == pytest.approx(10 + 8 * 3 * 2 * 0.3)
    since = replace(task, indexed=850)
    later = choose(since, COSTS, recall=0.9, index=MadeUpIndex(rows=900))  # type: ignore[arg-type]
    assert later.expected["index"] == pytest.approx(10 + 7 * 2 * 0.3 + 20 + 150 * 2 * 1.01)
    late = choose(replace(since, indexed=0), COSTS, recall=0.9, index=index)  # type: ignore[arg-type]
    assert "index" not in late.expected
    exact = choose(task, COSTS, recall=None, index=index)  # type: ignore[arg-type]
    assert (exact.path, exact.effort) == ("dense", None)
    tight = choose(replace(task, allowed=400, indexed=400), COSTS, recall=0.9, index=index)  # type: ignore[arg-type]
    assert "index" not in tight.expected


def test_an_index_whose_answers_were_given_again_is_left_alone() -> None:
    task = replace(TASK, allowed=1000, indexed=1000)
    trusted, doubted = (
        choose(task, COSTS, recall=0.9, index=MadeUpIndex(), refused=share)  # type: ignore[arg-type]
        for share in (0.1, 1.0)
    )
    assert trusted.expected["index"] == pytest.approx(14.2 + 0.1 * 610)
    assert (trusted.path, doubted.path) == ("index", "dense")


def test_a_path_can_be_asked_for_where_it_can_answer() -> None:
    assert choose(TASK, COSTS, recall=None, only="gather").path == "gather"
    with pytest.raises(UsageError, match="path 'index' cannot answer this; there are gather, scan"):
        choose(TASK, COSTS, recall=None, only="index")
    with pytest.raises(UsageError, match="there are gather, dense"):
        choose(replace(TASK, half=True), COSTS, recall=None, only="scan")


def test_experience_is_kept_by_filter_and_forgets_the_longest_unused() -> None:
    experience = Experience()
    experience.note(1, answered=3, refused=3)
    assert experience.refused(1) is None  # too few to tell
    experience.note(1, answered=5, refused=1)
    assert experience.refused(1) == 0.5
    assert experience.refused(2) is None
    for key in range(2, 258):
        experience.note(key, answered=8, refused=0)
    assert experience.refused(1) is None
    assert experience.refused(257) == 0


def test_the_cost_of_an_index_counts_what_tuning_foresaw_and_rows_added_since() -> None:
    # 850 of 1,000 allowed rows are indexed; 3 answers of 10 were given again, 1 was foreseen.
    task = replace(TASK, allowed=950, indexed=850, queries=3)

    class Accepting(MadeUpIndex):
        def effort(self, *, share: float, recall: float, k: int) -> MadeUpEffort:
            assert share == 0.85
            return MadeUpEffort(rows_single=7, rows_batch=3, accepted=0.9)

    plan = choose(task, COSTS, recall=0.9, index=Accepting(), refused=0.3)  # type: ignore[arg-type]
    best = min(seconds for path, seconds in plan.expected.items() if path != "index")
    assert best < max(plan.expected.values())
    assert plan.expected["index"] == pytest.approx(
        10 + 3 * 7 * 2 * 0.3 + 0.2 * best + 20 + 100 * 2 * (1.0 + 3 * 0.01)
    )


def test_what_half_precision_costs() -> None:
    plan = choose(replace(TASK, half=True), COSTS, recall=None)
    assert plan.expected == pytest.approx(
        {"gather": 20 + 100 * 2 * (1.1 + 0.01), "dense": 20 + 1000 * 2 * (1.1 + 0.01)}
    )


def test_experience_counts_from_four_answers_and_keeps_what_was_used_last() -> None:
    experience = Experience()
    experience.note(1, answered=3, refused=1)
    assert experience.refused(1) is None
    experience.note(1, answered=1, refused=0)
    assert experience.refused(1) == 0.25
    for key in range(2, 257):
        experience.note(key, answered=4, refused=0)
    experience.note(1, answered=4, refused=0)  # now 2 is the oldest
    experience.note(257, answered=4, refused=0)
    assert (experience.refused(1), experience.refused(2)) == (0.125, None)


def test_after_a_while_an_index_gets_another_chance() -> None:
    experience = Experience()
    experience.note(1, answered=4, refused=4)
    assert [experience.refused(1) for _ in range(100)] == [1.0] * 100
    assert experience.refused(1) is None
    assert experience.refused(1) is None


def test_better_answers_than_foreseen_make_no_way_cheaper_than_its_searches() -> None:
    task = replace(TASK, allowed=1000, indexed=1000)

    class Accepting(MadeUpIndex):
        def effort(self, *, share: float, recall: float, k: int) -> MadeUpEffort:
            return MadeUpEffort(rows_single=7, rows_batch=3, accepted=0.1)

    plan = choose(task, COSTS, recall=0.9, index=Accepting(), refused=0.0)  # type: ignore[arg-type]
    assert plan.expected["index"] == pytest.approx(10 + 7 * 2 * 0.3)

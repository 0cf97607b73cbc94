"""Pictures of an evaluation: the numbers that they hold, and the bytes that they become."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cli.plots import (
    before_after_figure,
    cmc_figure,
    histogram_figure,
    interpolated_precision,
    precision_recall_figure,
    save,
    svg_text,
)
from reid_index.errors import MissingExtra, UsageError
from reid_index.evaluation.evaluate import Evaluation
from reid_index.evaluation.measures import measure
from reid_index.evaluation.ranks import Ranks
from reid_index.files import replace_file

REPOSITORY = Path(__file__).parents[1]
HREF = "{http://www.w3.org/1999/xlink}href"


def evaluation(*lists, at=None, gallery=10):
    """Of queries whose relevant items stand at these ranks."""
    counts = [len(ranks) for ranks in lists]
    ranks = Ranks(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        ranks=np.array([rank for ranks in lists for rank in ranks], np.int64),
        considered=np.full(len(lists), gallery),
    )
    found = measure(ranks, ap_rule="standard", unanswerable="skip", at=at)
    return Evaluation(
        mAP=found.mAP,
        mINP=found.mINP,
        cmc=found.cmc,
        queries=len(lists),
        answerable=found.answerable,
        gallery=gallery,
        ap_rule="standard",
        unanswerable="skip",
        at=at,
        ranks=ranks,
        ap=found.ap,
        inp=found.inp,
        seconds={},
    )


def axes_of(figure):
    [axes] = figure.axes
    return axes


def legend_texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def all_figures():
    plain, reranked = evaluation([1, 3], [2], []), evaluation([1, 2], [3], [])
    curves = {"plain": plain, "re-ranked": reranked}
    return {
        "cmc": cmc_figure(curves),
        "precision-recall": precision_recall_figure(curves),
        "histogram": histogram_figure(
            positives=[0, 1, 3], negatives=[6, 4, 0], edges=[0, 1, 2, 3], thresholds={"a": 1.5}
        ),
        "before-after": before_after_figure(plain, reranked),
    }


def test_the_cmc_is_drawn_rank_by_rank_with_rank_1_in_the_legend():
    curves = {"plain": evaluation([1, 3], [2], [4], gallery=5), "b": evaluation([1], gallery=3)}
    axes = axes_of(cmc_figure(curves))
    plain, other = axes.lines
    np.testing.assert_array_equal(plain.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(plain.get_ydata(), [1 / 3, 2 / 3, 2 / 3, 1, 1])
    np.testing.assert_array_equal(other.get_ydata(), [1, 1, 1])
    assert legend_texts(axes.get_legend()) == ["0.3333  plain", "1.0000  b"]
    assert axes.get_ylim()[0] == pytest.approx(0.3)  # the lowest value, down to a tenth
    # Told apart in grey too.
    assert plain.get_linestyle() != other.get_linestyle()
    assert plain.get_marker() != other.get_marker()


def test_interpolated_precision_of_hand_made_lists():
    # Hits at 1 and 3: precision 1 up to recall 0.5, then 2/3. Hits at 2 and 3: the second hit's
    # 2/3 is above the first's 1/2 and so holds everywhere. The query without a match is left out.
    drawn = evaluation([1, 3], [2, 3], [])
    expected = [(1 + 2 / 3) / 2] * 51 + [2 / 3] * 50
    np.testing.assert_allclose(interpolated_precision(drawn), expected, rtol=1e-15)
    # A list that is cut at 2 finds nothing beyond its first hit.
    cut = interpolated_precision(evaluation([1, 3], [2, 3], at=2))
    np.testing.assert_allclose(cut, [3 / 4] * 51 + [0] * 50, rtol=1e-15)


def test_interpolated_precision_is_that_of_its_definition_in_fractions(rng):
    lists = [np.sort(rng.choice(60, size=h, replace=False) + 1).tolist() for h in (1, 7, 29)]
    # In floating point 0.28 × 25 is above 7, so that the seventh hit would be missed.
    lists.append([*range(1, 8), *range(43, 61)])
    expected = [
        sum(
            max(
                Fraction(i, rank)
                for i, rank in enumerate(ranks, start=1)
                if Fraction(i, len(ranks)) >= Fraction(level, 100)
            )
            for ranks in lists
        )
        / len(lists)
        for level in range(101)
    ]
    found = interpolated_precision(evaluation(*lists, gallery=60))
    np.testing.assert_allclose(found, np.array(expected, np.float64), rtol=1e-14)


def test_the_precision_recall_line_holds_that_mean_and_the_legend_the_map():
    curves = {"whole": evaluation([1, 4]), "cut": evaluation([1, 4], at=3)}
    axes = axes_of(precision_recall_figure(curves))
    whole, cut = axes.lines
    np.testing.assert_allclose(whole.get_xdata(), np.linspace(0, 1, 101))
    np.testing.assert_allclose(whole.get_ydata(), [1] * 51 + [0.5] * 50)
    np.testing.assert_allclose(cut.get_ydata(), [1] * 51 + [0] * 50)
    assert legend_texts(axes.get_legend()) == ["mAP 0.7500  whole", "mAP@3 0.5000  cut"]


def test_histograms_are_shares_of_their_own_pairs_with_the_thresholds_as_lines():
    figure = histogram_figure(
        positives=[0, 0, 1, 3, 0, 0],
        negatives=[0, 1500, 500, 0, 0, 0],
        edges=[-3, -2, -1, 0, 1, 2, 3],
        thresholds={"equal error rate": 0.0, "false-match rate 0.001": 1.25},
    )
    axes = axes_of(figure)
    other, same = (patch.get_data() for patch in axes.patches)
    np.testing.assert_array_equal(other.values, [0, 75, 25, 0, 0, 0])
    np.testing.assert_array_equal(same.values, [0, 0, 25, 75, 0, 0])
    np.testing.assert_array_equal(same.edges, [-3, -2, -1, 0, 1, 2, 3])
    assert [line.get_xdata() for line in axes.lines] == [[0, 0], [1.25, 1.25]]
    assert legend_texts(figure.legends[0]) == [
        "different people, 2,000 pairs",
        "same person, 4 pairs",
        "0.0000  equal error rate",
        "1.2500  false-match rate 0.001",
    ]
    # From the first pair at -2 to the threshold at 1.25, which lies beyond the last pair.
    assert axes.get_xlim() == pytest.approx((-2 - 0.065, 1.25 + 0.065))
    assert axes.get_xlabel() == "similarity (higher is more alike)"


def test_a_histogram_of_distances_says_so_and_can_be_empty():
    empty = {"positives": [0, 0], "negatives": [0, 0], "edges": [0, 1, 2], "thresholds": {}}
    axes = axes_of(histogram_figure(**empty, score_name="distance"))
    assert axes.get_xlabel() == "distance (lower is more alike)"
    assert [patch.get_data().values.tolist() for patch in axes.patches] == [[0, 0], [0, 0]]
    with pytest.raises(UsageError, match=r"^a score is a similarity or a distance, got 'rank'$"):
        histogram_figure(**empty, score_name="rank")


def test_before_and_after_are_counted_in_the_title_and_drawn_as_points():
    # AP 1/2 → 1, 1 → 1, 1 → 1/4, 1/3 → 1/2; the third query has no match and is left out.
    before = evaluation([2], [1], [], [1], [3])
    after = evaluation([1], [1], [], [4], [2])
    axes = axes_of(before_after_figure(before, after))
    assert axes.get_title() == "Queries: 2 better · 1 equal · 1 worse"
    points = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(points["better"], [[1 / 2, 1], [1 / 3, 1 / 2]])
    np.testing.assert_allclose(points["equal"], [[1, 1]])
    np.testing.assert_allclose(points["worse"], [[1, 1 / 4]])


def test_before_and_after_must_be_of_the_same_queries():
    with pytest.raises(UsageError, match=r"^before \(2 queries\) and after \(1\) are not of the"):
        before_after_figure(evaluation([1], [2]), evaluation([1]))


@pytest.mark.parametrize("suffix", [".svg", ".PNG"])
def test_the_same_data_gives_the_same_bytes_whatever_the_user_has_configured(tmp_path, suffix):
    first = {}
    for name, figure in all_figures().items():
        path = tmp_path / f"{name}{suffix}"
        save(figure, path)
        first[path] = path.read_bytes()
    save(figure, path)
    assert path.read_bytes() == first[path]
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        for name, figure in all_figures().items():
            save(figure, tmp_path / f"{name}{suffix}")
        assert matplotlib.rcParams["font.size"] == 30
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_png_is_a_picture_of_the_stated_size(tmp_path):
    save(all_figures()["cmc"], tmp_path / "cmc.png")
    with Image.open(tmp_path / "cmc.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (960, 660))


def test_an_svg_refers_to_nothing_outside_itself():
    many = evaluation(*[[1 + i % 7] for i in range(2001)])
    figures = all_figures() | {"many": before_after_figure(many, many)}
    for name, figure in figures.items():
        text = svg_text(figure)
        assert text.startswith("<svg"), name
        root = ElementTree.fromstring(text)
        elements = list(root.iter())
        referred = [element.get(HREF) for element in elements if element.get(HREF)]
        assert referred, name
        assert {target[:1] if target[0] == "#" else target[:22] for target in referred} <= {
            "#",
            "data:image/png;base64,",
        }
        names = {element.tag.split("}")[1] for element in elements}
        assert names.isdisjoint({"script", "foreignObject", "text", "metadata"}), name
        namespaces = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
        assert text.count("://") == sum(text.count(each) for each in namespaces), name
        assert "url(" not in text.replace("url(#", ""), name
    # So many points are pixels: as shapes they would take some 100 bytes each.
    assert len(svg_text(figures["many"])) < 100_000


def test_names_are_drawn_as_they_are(tmp_path):
    undecodable = b"caf\xe9".decode(errors="surrogateescape")
    names = ["$\\frac$ of $x$", "_hidden", undecodable]
    figure = cmc_figure({name: evaluation([1]) for name in names})
    assert legend_texts(axes_of(figure).get_legend()) == [
        "1.0000  $\\frac$ of $x$",
        "1.0000  _hidden",
        "1.0000  caf?",
    ]
    save(figure, tmp_path / "names.svg")


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cmc\.pdf: a figure is saved as \.svg or \.png$"):
        save(all_figures()["cmc"], tmp_path / "cmc.pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        replace_file(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r"^Matplotlib is not installed: pip install 'reid-index\[report\]'$"
    with pytest.raises(MissingExtra, match=message):
        cmc_figure({"plain": evaluation([1])})


def test_matplotlib_is_loaded_for_a_figure_only_and_pyplot_never():
    code = """
import sys
from cli import plots, report
early = "matplotlib" in sys.modules
figure = plots.histogram_figure(positives=[1], negatives=[1], edges=[0, 1], thresholds={})
plots.svg_text(figure)
print(early, "matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True", "False"]

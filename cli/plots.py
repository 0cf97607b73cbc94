"""Pictures of an evaluation: curves, histograms and re-ranking before and after, as SVG and PNG.

Figures are Matplotlib's, which is imported when one is made. They are drawn with its own defaults,
whatever the user has configured, so the same data gives the same bytes; nothing of its global
state is left changed. Colours are Okabe's and Ito's, told apart by colour-blind people; lines
differ in dashes and markers too, for prints in grey.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reid_index.errors import MissingExtra, UsageError
from reid_index.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reid_index.evaluation.evaluate import Evaluation

_BLUE, _RED, _GREEN, _PINK, _GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#5c6572"

_LINES: tuple[dict[str, Any], ...] = (
    {"color": _BLUE, "linestyle": "-", "marker": "o"},
    {"color": _RED, "linestyle": "--", "marker": "s"},
    {"color": _GREEN, "linestyle": "-.", "marker": "^"},
    {"color": _PINK, "linestyle": ":", "marker": "D"},
)

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 150,
    "figure.figsize": (6.4, 4.4),
    "font.size": 10.0,
    "grid.color": "#d5d9df",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.framealpha": 0.9,
    "lines.markersize": 5.0,
    "savefig.dpi": 150,
    "svg.fonttype": "path",  # shapes instead of text: no font is asked for
    "svg.hashsalt": "reid-index",
    "text.parse_math": False,  # a name may hold a $
}

_MARKED_RANKS = (1, 5, 10, 20, 50)

_RECALL_STEPS = 100

_EQUAL_AP = 1e-12
"""Above the rounding of a mean of precisions, below what one place far down a list changes."""

_MANY_POINTS = 2000
"""More points than that are drawn as pixels: as shapes they would make a slow, large file."""


def cmc_figure(curves: "Mapping[str, Evaluation]") -> "Figure":
    """The cumulated matching characteristics of one or more evaluations, by name.

    x: rank k from 1; y: the share of queries with a match among their first k, in [0, 1], as
    `measures.measure` defines it. Lines are in the order of `curves`. Raises MissingExtra.
    """
    with _drawing() as (figure, axes):
        for (name, evaluation), line in zip(curves.items(), cycle(_LINES), strict=False):
            cmc = evaluation.cmc
            axes.plot(
                np.arange(1, len(cmc) + 1),
                cmc,
                label=_printable(f"{cmc[0]:.4f}  {name}"),
                markevery=[rank - 1 for rank in _MARKED_RANKS if rank <= len(cmc)],
                **line,
            )
        lowest = min(float(evaluation.cmc[0]) for evaluation in curves.values())
        axes.set_ylim(min(np.floor(10 * lowest) / 10, 0.9), 1.005)
        longest = max(len(evaluation.cmc) for evaluation in curves.values())
        axes.set_xticks([rank for rank in (1, 5, 10, 20, 30, 40, 50) if rank <= max(longest, 5)])
        axes.set_xlabel("rank k (place in the list)")
        axes.set_ylabel("queries with a match among their first k (share)")
        axes.set_title("Cumulated matching characteristic")
        axes.legend(loc="lower right", title="rank-1")
    return figure


def precision_recall_figure(curves: "Mapping[str, Evaluation]") -> "Figure":
    """The mean interpolated precision of one or more evaluations, by name, over recall.

    x: recall 0, 0.01 … 1; y: `interpolated_precision`, in [0, 1]. The legend gives the mAP, which
    follows the evaluation's own rules and is not the area below the curve. Raises MissingExtra.
    """
    with _drawing() as (figure, axes):
        levels = np.arange(_RECALL_STEPS + 1) / _RECALL_STEPS
        for (name, evaluation), line in zip(curves.items(), cycle(_LINES), strict=False):
            measure = "mAP" if evaluation.at is None else f"mAP@{evaluation.at}"
            axes.plot(
                levels,
                interpolated_precision(evaluation),
                label=_printable(f"{measure} {evaluation.mAP:.4f}  {name}"),
                markevery=20,
                **line,
            )
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("recall (share of a query's matches that are found)")
        axes.set_ylabel("precision (mean over queries, interpolated)")
        axes.set_title("Precision and recall")
        axes.legend(loc="lower left")
    return figure


def interpolated_precision(evaluation: "Evaluation") -> NDArray[np.float64]:
    """The mean over answerable queries of the interpolated precision at recall 0, 0.01 … 1.

    float64 (101,), in [0, 1], nowhere rising. The interpolated precision of a query at recall t is
    the highest precision at any of its hits whose recall is t or more (Manning, Raghavan and
    Schütze, Introduction to Information Retrieval, 2008, section 8.4); the i-th hit of H, at rank
    r, has precision i/r and recall i/H. Hits beyond the rank at which the evaluation cut its lists
    have precision 0.
    """
    ranks = evaluation.ranks
    levels = np.arange(_RECALL_STEPS + 1)
    total = np.zeros(_RECALL_STEPS + 1)
    for first, last in pairwise(ranks.offsets.tolist()):
        hits, count = ranks.ranks[first:last], last - first
        if count == 0:
            continue
        precision = np.arange(1, count + 1) / hits
        if evaluation.at is not None:
            precision[hits > evaluation.at] = 0
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        # In whole numbers: 0.28 × 25 is above 7 in floating point.
        enough = np.maximum(-(-levels * count // _RECALL_STEPS), 1)
        total += highest[enough - 1]
    mean: NDArray[np.float64] = total / evaluation.answerable
    return mean


def histogram_figure(
    *,
    positives: ArrayLike,
    negatives: ArrayLike,
    edges: ArrayLike,
    thresholds: Mapping[str, float],
    score_name: str = "similarity",
) -> "Figure":
    """How the scores of pairs of one person and of two people lie, with thresholds as lines.

    positives, negatives: counts of pairs (B,), each drawn as a share of its own sum, in per cent.
    edges: of the bins, ascending (B + 1,). thresholds: name → score. score_name: "similarity" or
    "distance". Empty bins at both ends are cut off. Raises UsageError, MissingExtra.
    """
    if score_name not in ("similarity", "distance"):
        raise UsageError(f"a score is a similarity or a distance, got {score_name!r}")
    same, other = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    ends = np.asarray(edges, np.float64)
    with _drawing() as (figure, axes):
        for counts, what, colour, face, hatch in (
            (other, "different people", _RED, (_RED, 0.3), ""),
            (same, "same person", _BLUE, "none", "////"),
        ):
            axes.stairs(
                100 * counts / max(counts.sum(), 1),
                ends,
                fill=True,
                facecolor=face,
                edgecolor=colour,
                hatch=hatch,
                linewidth=1.2,
                label=f"{what}, {int(counts.sum()):,} pairs",
            )
        for (name, score), dashes in zip(
            thresholds.items(), cycle(("-", "--", "-.", ":")), strict=False
        ):
            label = _printable(f"{score:.4f}  {name}")
            axes.axvline(score, color="black", linestyle=dashes, linewidth=1.2, label=label)
        axes.set_xlim(*_occupied(same + other, ends, [*thresholds.values()]))
        axes.set_ylim(bottom=0)
        better = "higher" if score_name == "similarity" else "lower"
        axes.set_xlabel(f"{score_name} ({better} is more alike)")
        axes.set_ylabel("share of the pairs of its kind per bin (%)")
        axes.set_title(f"{score_name.capitalize()} of pairs")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _occupied(
    counts: NDArray[np.float64], edges: NDArray[np.float64], marked: list[float]
) -> tuple[float, float]:
    """From the first to the last bin that is not empty, or all where all are; with the marks."""
    bins = np.flatnonzero(counts)
    low, high = (edges[bins[0]], edges[bins[-1] + 1]) if len(bins) else (edges[0], edges[-1])
    low, high = min([low, *marked]), max([high, *marked])
    margin = 0.02 * (high - low)
    return float(low - margin), float(high + margin)


def before_after_figure(before: "Evaluation", after: "Evaluation") -> "Figure":
    """What re-ranking, or fusion, did to the average precision (AP) of each query with a match.

    x: AP before, y: AP after, both in [0, 1]; the title counts those that are better, equal (up to
    1e-12) and worse. Both evaluations are of the same queries against the same gallery.
    Raises UsageError where they cannot be, MissingExtra.
    """
    if not np.array_equal(before.ranks.relevant, after.ranks.relevant):
        raise UsageError(
            f"before ({before.queries} queries) and after ({after.queries}) are not of the same "
            "queries and gallery: a query has another number of matches"
        )
    has = before.ranks.relevant > 0
    old, new = before.ap[has], after.ap[has]
    better, worse = new - old > _EQUAL_AP, old - new > _EQUAL_AP
    kinds: dict[str, tuple[NDArray[np.bool_], dict[str, Any]]] = {
        "better": (better, {"color": _BLUE, "marker": "^"}),
        "equal": (~better & ~worse, {"color": _GREY, "marker": "o"}),
        "worse": (worse, {"color": _RED, "marker": "v"}),
    }
    with _drawing() as (figure, axes):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for name, (chosen, points) in kinds.items():
            axes.plot(
                old[chosen],
                new[chosen],
                linestyle="none",
                markersize=4,
                markeredgewidth=0,
                alpha=0.6,
                label=name,
                rasterized=len(old) > _MANY_POINTS,
                clip_on=False,
                **points,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel(f"{before.ap_name} before")
        axes.set_ylabel(f"{after.ap_name} after")
        counts = " · ".join(f"{chosen.sum():,} {name}" for name, (chosen, _) in kinds.items())
        axes.set_title(f"Queries: {counts}")
        figure.legend(loc="outside right center")
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in one step, as SVG or PNG (150 dots an inch) by the suffix of its path.

    The same figure gives the same bytes with the same Matplotlib. Raises UsageError for another
    suffix, OSError where it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".svg":
        replace_file(path, svg_text(figure).encode())
    elif suffix == ".png":
        replace_file(path, _png(figure))
    else:
        raise UsageError(f"{path}: a figure is saved as .svg or .png")


def svg_text(figure: "Figure") -> str:
    """A figure as one <svg> element that refers to nothing outside itself."""
    buffer = io.StringIO()
    # With no metadata there is no date in it and no address.
    unknown = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _style():
        figure.savefig(buffer, format="svg", metadata=unknown)
    text = buffer.getvalue()
    # What comes before names a document type by its address; a picture does without.
    return text[text.index("<svg") :]


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    with _style():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's defaults and ours on top, for as long as it lasts."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra(
            "Matplotlib is not installed: pip install 'reid-index[report]'"
        ) from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@contextmanager
def _drawing() -> "Iterator[tuple[Figure, Axes]]":
    """A new figure with one pair of axes, laid out when all is drawn on it."""
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        yield figure, figure.subplots()
        # Every later drawing would find a slightly other layout, and other bytes.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _printable(text: str) -> str:
    """A file name that is not UTF-8 reaches Python as lone surrogates, which no font can draw."""
    return text.encode(errors="replace").decode()

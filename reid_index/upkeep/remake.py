"""How what is attached to a gallery was made, and making it again from the rows that are there now.

The manifest's `about` says how; formats before 1.3 leave it to be read from the files themselves.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..files import sha256_file
from ..reranking.rerank import Reranking
from ..store.manifest import AttachedEntry, Manifest, Owed

if TYPE_CHECKING:
    from ..gallery import Gallery

_SEED = 0
"""Of the sample of a calibration that does not say: that of `calibrate` unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class GraphRecipe:
    """A neighbour graph. exact: as `Gallery.build_graph` takes it."""

    reranking: Reranking
    exact: bool | None


@dataclass(frozen=True, kw_only=True)
class IndexRecipe:
    """An approximate index. kind, recall: as `Gallery.build_index` takes them."""

    kind: str
    recall: float


@dataclass(frozen=True, kw_only=True)
class CalibrationRecipe:
    """A calibration by labels or, where weak, by tracks; see `calibration.calibrate`."""

    weak: bool
    same_camera: bool
    false_match_rate: float
    max_rows: int
    seed: int


Recipe = GraphRecipe | IndexRecipe | CalibrationRecipe


def graph_about(reranking: Reranking, *, exact: bool | None) -> dict[str, Any]:
    """What the manifest says of a graph: what `Gallery.build_graph` was asked for."""
    return {"k1": reranking.k1, "k2": reranking.k2, "exact": exact}


def recipe_of(path: Path, entry: AttachedEntry) -> Recipe | str:
    """How an attachment of the gallery in `path` was made, so that `make_again` can do it again; or
    in a line why that cannot be.

    Where the manifest does not say it, the attachment's own files do, if their bytes are right. A
    graph's lists are then taken to be as long as the largest k2 that it serves.
    """
    if entry.kind not in _TELLING:
        return f"this reid-index does not know how a {entry.kind} is made"
    try:
        return _recipe(entry.kind, _said(path, entry))
    except UsageError as error:
        return str(error)
    except OSError as error:
        return f"how it was made cannot be read: {error.strerror}"
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        return f"how it was made cannot be read ({error!r})"


def recipes_of(path: Path, manifest: Manifest) -> dict[str, Recipe | str]:
    """How all attachments were made, those that are owed among them, by kind; see `recipe_of`."""
    recipes = {entry.kind: recipe_of(path, entry) for entry in manifest.attached}
    for owed in manifest.owed:
        entry = AttachedEntry(kind=owed.kind, folder="", covers=(), files={}, about=owed.about)
        recipes[owed.kind] = recipe_of(path, entry)
    return recipes


def owed_without(
    recipes: Mapping[str, Recipe | str], kept: Iterable[AttachedEntry]
) -> tuple[Owed, ...]:
    """What a generation that keeps only some attachments owes of them."""
    there = {entry.kind for entry in kept}
    return tuple(
        Owed(kind=kind, about=_about(recipe))
        for kind, recipe in recipes.items()
        if kind not in there and not isinstance(recipe, str)
    )


def _about(recipe: Recipe) -> dict[str, Any]:
    """What `recipe_of` makes the recipe from."""
    match recipe:
        case GraphRecipe():
            return graph_about(recipe.reranking, exact=recipe.exact)
        case IndexRecipe():
            return {"kind": recipe.kind, "recall_wanted": recipe.recall}
        case CalibrationRecipe():
            return {
                "origin": "tracks" if recipe.weak else "labels",
                "same_camera": recipe.same_camera,
                "false_match_rate": recipe.false_match_rate,
                "max_rows": recipe.max_rows,
                "seed": recipe.seed,
            }


def make_again(gallery: "Gallery", recipe: Recipe) -> None:
    """Make an attachment from the gallery's present items and keep it, in one commit.

    Raises what `Gallery.build_graph`, `Gallery.build_index` and `calibration.calibrate` raise:
    UsageError or NoCalibration where the items that are left do not suffice.
    """
    match recipe:
        case GraphRecipe():
            gallery.build_graph(recipe.reranking, exact=recipe.exact)
        case IndexRecipe():
            gallery.build_index(recipe.kind, recall=recipe.recall)
        case CalibrationRecipe():
            from ..evaluation.calibration import calibrate, write_calibration

            made = calibrate(
                gallery,
                weak=recipe.weak,
                same_camera=recipe.same_camera,
                false_match_rate=recipe.false_match_rate,
                max_rows=recipe.max_rows,
                seed=recipe.seed,
            )
            write_calibration(gallery, made)


_TELLING = {"graph": "k1", "index": "recall_wanted", "calibration": "origin"}
"""What `about` has where it says how an attachment was made."""


def _said(path: Path, entry: AttachedEntry) -> Mapping[str, Any]:
    """What is said of an attachment: `about`, or its JSON file. Raises OSError, LookupError,
    ValueError."""
    if _TELLING[entry.kind] in entry.about:
        return entry.about
    name = f"{entry.kind}.json"
    file = path / entry.folder / name
    if sha256_file(file) != entry.files[name].sha256:
        raise ValueError(f"{name} has changed since it was written")
    said: Mapping[str, Any] = json.loads(file.read_bytes())
    return said


def _recipe(kind: str, said: Mapping[str, Any]) -> Recipe:
    if kind == "graph":
        return _graph(said)
    return _index(said) if kind == "index" else _calibration(said)


def _graph(said: Mapping[str, Any]) -> GraphRecipe:
    from ..reranking.graph import EXACT_ROWS

    if "neighbours" in said:  # graph.json: lists of that length serve this k2, and no larger one
        reranking = Reranking(k1=int(said["k1"]), k2=int(said["neighbours"]))
        by_default = said["rows"] <= EXACT_ROWS
        exact = None if by_default == said["exact"] else bool(said["exact"])
    else:
        reranking, exact = Reranking(k1=said["k1"], k2=said["k2"]), said["exact"]
    if exact not in (None, True, False):
        raise ValueError(f"exact is {exact!r}")
    return GraphRecipe(reranking=reranking, exact=exact)


def _index(said: Mapping[str, Any]) -> IndexRecipe:
    from ..search.index_build import check_request

    recall = said["recall_wanted"] if "recall_wanted" in said else _tuned_for(said)
    recipe = IndexRecipe(kind=str(said["kind"]), recall=float(recall))
    check_request(recipe.kind, recipe.recall)
    return recipe


def _tuned_for(said: Mapping[str, Any]) -> float:
    """The recall that an index was asked for, by its table of efforts; 0.95, the default, where
    that has none but those that are always tuned for."""
    from ..search.index_tuning import RECALLS

    return max({float(tuned["wanted"]) for tuned in said["tuned"]} - set(RECALLS), default=0.95)


def _calibration(said: Mapping[str, Any]) -> CalibrationRecipe:
    from ..evaluation.calibration import MAX_ROWS

    if said["origin"] == "pairs":
        raise UsageError("it was made from a list of pairs: run `reid calibrate --pairs` again")
    if said["origin"] not in ("labels", "tracks"):
        raise ValueError(f"origin is {said['origin']!r}")
    if "max_rows" in said:
        max_rows, seed = int(said["max_rows"]), int(said["seed"])
    else:
        max_rows = int(said["rows"]) if said["sampled"] else max(MAX_ROWS, int(said["rows"]))
        seed = _SEED
    return CalibrationRecipe(
        weak=said["origin"] == "tracks",
        same_camera=bool(said["same_camera"]),
        false_match_rate=float(said["false_match_rate"]),
        max_rows=max_rows,
        seed=seed,
    )

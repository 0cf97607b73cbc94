"""What filtering by attributes does to an evaluation: which thresholds, and what each query's list
then lacks."""

from dataclasses import dataclass

from reid_index.attributes import Threshold, names_in
from reid_index.errors import UsageError
from reid_index.evaluation.filter_quality import (
    Coded,
    FilterQuality,
    code,
    dropped,
    filter_quality,
)
from reid_index.evaluation.protocol import Labelled
from reid_index.evaluation.ranks import Drops

from .attribute_options import AutoFilter
from .sides import Side


@dataclass(frozen=True, kw_only=True)
class Filtering:
    """A filter by attributes over two sides.

    thresholds: attribute that both sides have → from which confidence on it, or each of its words,
    is used; None: not.
    """

    queries: Coded
    gallery: Coded
    thresholds: dict[str, Threshold]

    @property
    def drops(self) -> Drops:
        """What is dropped for some queries."""
        return lambda start, stop: dropped(
            self.queries.part(start, stop), self.gallery, self.thresholds
        )

    def quality(self, labelled: Labelled, *, same_camera: bool, same_item: bool) -> FilterQuality:
        """What it keeps and drops of all pairs."""
        return filter_quality(
            self.queries,
            self.gallery,
            labelled.query,
            labelled.gallery,
            self.thresholds,
            same_camera=same_camera,
            same_item=same_item,
        )


def make_filtering(auto: AutoFilter, queries: Side, gallery: Side) -> Filtering:
    """The filter that options ask for. Raises UsageError where the gallery has no attribute that
    they name, where the sides have none in common, and for sides of tracklets."""
    if gallery.tracks is not None:
        raise UsageError("--auto-filter is for single crops: attributes are not of tracklets")
    asked, there = (names_in(side.items.column_names) for side in (queries, gallery))
    for name in (*auto.thresholds, *auto.unused):
        if name not in there:
            raise UsageError(
                f"{gallery.path} has no attribute {name!r}, so nothing can be said of filtering by "
                f"it; its attributes: {', '.join(there) or 'none'}"
            )
    shared = [name for name in there if name in asked]
    thresholds = {
        name: None if name in auto.unused else auto.thresholds.get(name, auto.threshold)
        for name in shared
    }
    if all(one is None for one in thresholds.values()):
        raise UsageError(
            f"--auto-filter: no attribute is used; {gallery.path} has "
            f"{', '.join(there) or 'none'}, {queries.path} {', '.join(asked) or 'none'}"
        )
    coded = code(queries.items, gallery.items, shared)
    return Filtering(queries=coded[0], gallery=coded[1], thresholds=thresholds)

"""The sheet of an answer of items: their pictures fetched, and what is said beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .sheet import render_sheet
from .target import load_crop

if TYPE_CHECKING:
    from PIL.Image import Image

    from reid_index import Gallery, Match, Result


def item_sheet(
    gallery: "Gallery",
    result: "Result",
    *,
    images: "Sequence[Image]",
    label: str,
    person: str | None,
    is_described: bool,
    attributes: Sequence[str],
    title: str,
    rules: dict[str, str],
    root: Path | None,
) -> tuple[str, str | None]:
    """The page, and a line on the pictures that it cannot show, None where it shows them all.

    images, label, person, is_described, attributes: see `sheet.render_sheet`. rules: what the
    search was told, by name. root: where the pictures are now.
    """
    shown = []

    def load(match: "Match") -> "Image | None":
        crop = load_crop(match.source, match.root, match.box, other_root=root)
        if match.root or root:  # elsewhere there never were pictures
            shown.append(crop is not None)
        return crop

    page = render_sheet(
        result,
        query_images=images,
        query_label=label,
        query_person=person,
        load_crop=load,
        title=title,
        is_described=is_described,
        attributes=attributes,
        details=[
            ("gallery", f"{gallery.path.absolute().name}, generation {result.generation}"),
            ("extractor", gallery.fingerprint.name),
            *rules.items(),
            ("allowed", f"{result.allowed:,} of {result.rows:,} items"),
            ("search", result.plan + (", exact" if result.exact else ", approximate")),
            ("time", f"{1000 * sum(result.seconds.values()):.1f} ms"),
        ],
        footnote="A high rank is no proof of who somebody is.",
    )
    hidden = shown.count(False)
    if hidden == 0:
        return page, None
    return page, (
        f"{hidden} of {len(shown)} pictures cannot be shown; --root says where they are now"
    )

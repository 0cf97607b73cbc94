"""`reid query`: the items of a gallery that are most like a target."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reid_index.errors import UsageError

from .attribute_options import auto_filter_options, parse_auto_filter
from .cameras import parse_cameras
from .candidate_options import candidate_options, refuse_candidate_options
from .extractor_options import attributes_option
from .paths import PATH
from .rerank_options import make_reranking, refuse_given, rerank_options

if TYPE_CHECKING:
    from reid_index import Gallery, Result

    from .target import Target


@click.command(name="query")
@click.argument("gallery", type=PATH)
@click.argument("target", required=False, type=PATH)
@click.option("--item", type=int, help="Look for this item of the gallery instead of a TARGET.")
@click.option("--box", metavar="X,Y,W,H", help="The person's box in a full picture, in pixels.")
@click.option(
    "--boxes",
    type=PATH,
    help="A file of boxes in the target.",
)
@click.option("--position", type=int, help="Which person of --boxes in the picture, from 1.")
@click.option(
    "--combine",
    type=click.Choice(["mean", "best"]),
    default="mean",
    show_default=True,
    help="Several images: search with the mean of their vectors, or rank by the best of them.",
)
@click.option("--top", "k", type=int, default=20, show_default=True, help="How many to return.")
@click.option("--where", metavar="EXPR", help="Only items for which this holds: camera = 2 AND …")
@click.option(
    "--not-camera",
    multiple=True,
    metavar="N|own",
    help="Leave items of this camera out; `own` is the target's. Can be given again.",
)
@auto_filter_options
@click.option(
    "--threshold",
    metavar="S|auto",
    help="Smallest similarity (largest distance when Euclidean); auto: as calibrated. Without a "
    "target, smallest confidence.",
)
@click.option(
    "--false-match-rate",
    type=float,
    help="Of --threshold auto: the share of pairs of different people that may pass.",
)
@click.option(
    "--recall",
    type=float,
    metavar="R",
    help="This share of the right items will do, so that an index may answer.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="All of the right items: the default, but where parts are compared.",
)
@click.option(
    "--shortlist",
    type=int,
    metavar="N",
    help="How many items have their parts compared, where there are parts. [default: 1000]",
)
@candidate_options
@click.option("--rerank", is_flag=True, help="Rank by k-reciprocal re-ranked distance.")
@rerank_options
@click.option(
    "--rerank-graph",
    type=click.Choice(["whole", "allowed"]),
    default="whole",
    show_default=True,
    help="Neighbours among all items, or among those that the filter allows.",
)
@click.option("--person", help="The target's person label, to mark right and wrong in the sheet.")
@click.option("--explain", is_flag=True, help="Say on standard error how the answer was found.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl", "csv", "html"]),
    default="table",
    show_default=True,
)
@click.option("--title", help="Of the HTML sheet [default: TARGET in GALLERY]")
@click.option(
    "--out",
    type=PATH,
    help="A file [default: standard output]",
)
@click.option(
    "--weights",
    type=PATH,
    help="Where the model file is now.",
)
@attributes_option("Where the model is now that predicts the gallery's attributes.")
@click.option("--root", type=PATH, help="Where the pictures are now.")
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda for osnet.")
@click.option(
    "--search-device",
    default="cpu",
    show_default=True,
    help="cpu, cuda, or several GPUs: cuda:0,cuda:1.",
)
def command(
    gallery: Path,
    target: Path | None,
    item: int | None,
    box: str | None,
    boxes: Path | None,
    position: int | None,
    combine: str,
    k: int,
    where: str | None,
    not_camera: tuple[str, ...],
    auto_filter: str | None,
    filter_at: tuple[str, ...],
    no_filter_by: tuple[str, ...],
    threshold: str | None,
    false_match_rate: float | None,
    recall: float | None,
    exact: bool,
    shortlist: int | None,
    tracks: Path | None,
    track: str | None,
    segment: int | None,
    stride: int | None,
    aggregate: str | None,
    proportion: float | None,
    rerank: bool,
    k1: int,
    k2: int,
    lambda_: float,
    rerank_graph: str,
    person: str | None,
    explain: bool,
    form: str,
    title: str | None,
    out: Path | None,
    weights: Path | None,
    attributes: Path | None,
    root: Path | None,
    device: str,
    search_device: str,
) -> None:
    """Find a person in GALLERY.

    TARGET is a picture, a folder or list of pictures of one person, a video, or a vector (.npy,
    .h5, .parquet) of the gallery's extractor; --item N takes a person who is in the gallery
    already. Videos are compared segment by segment, and the answer is whole videos and tracks.
    --where alone, without a target, lists the items that it describes, the surest first.
    """
    import time

    started = time.perf_counter()
    from reid_index import Gallery
    from reid_index.search.matching import SHORTLIST

    from .query_video import Asked, answer_candidates, asks_for_candidates
    from .query_where import Described, answer_description, refuse_of_targets

    _refuse_senseless(target, item, where, k=k, out=out)
    if target is None and item is None:
        refuse_of_targets()
    _refuse_clashing(rerank=rerank, exact=exact, recall=recall, search_device=search_device)
    filtering = parse_auto_filter(auto_filter, filter_at, no_filter_by)
    opened = Gallery.open(gallery)
    _refuse_shortlist(opened, shortlist, exact=exact)
    times = {"open": time.perf_counter() - started}
    if target is None and item is None:
        described = Described(
            where=where or "",
            not_camera=not_camera,
            k=k,
            threshold=threshold,
            title=title,
            root=root,
        )
        text, told, how = answer_description(opened, described, form=form, times=times)
        _write(text, out)
        for note in [*told, *([how] if explain else [])]:
            click.echo(note, err=True)
        return
    if asks_for_candidates(opened, target, aggregate):
        asked = Asked(
            path=target,
            item=item,
            box=None if box is None else parse_box(box),
            boxes=boxes,
            position=position,
            tracks=tracks,
            track=track,
            segment=segment,
            stride=stride,
            aggregate=aggregate,
            proportion=proportion,
            where=where,
            not_camera=not_camera,
            auto_filter=filtering,
            k=k,
            shortlist=shortlist,
            exact=exact,
            person=person,
            title=title,
            weights=weights,
            attributes=attributes,
            root=root,
            device=device,
        )
        answered = answer_candidates(opened, asked, form=form, times=times)
        _write(answered.text, out)
        for note in [*answered.notes, *([answered.explanation] if explain else [])]:
            click.echo(note, err=True)
        return
    refuse_candidate_options(
        tracks=tracks, track=track, segment=segment, stride=stride, proportion=proportion
    )
    started = time.perf_counter()
    looked_for = _target(
        opened,
        target,
        item,
        box=box,
        boxes=boxes,
        position=position,
        weights=weights,
        attributes=attributes,
        predict=filtering is not None,
        root=root,
        device=device,
    )
    times["target"] = time.perf_counter() - started
    agreement = None
    if filtering is not None:
        from .agreeing import agreement_of

        agreement = agreement_of(
            looked_for.attributes, filtering, label=looked_for.label, path=gallery
        )
    result = opened.search(
        looked_for.vectors,
        k=k,
        where=where,
        not_camera=parse_cameras(not_camera, looked_for.camera),
        agreement=agreement,
        threshold=_threshold(opened, threshold, false_match_rate),
        combine=combine,
        parts=looked_for.parts,
        visible=looked_for.visible,
        shortlist=None if exact else shortlist or SHORTLIST,
        rerank=make_reranking(k1=k1, k2=k2, lambda_=lambda_) if rerank else None,
        rerank_graph=rerank_graph,
        recall=recall,
        device=search_device,
    )
    from .formats import csv_text, jsonl, named_attributes, table

    named = named_attributes(where, opened.items.schema)
    hidden = None
    if form == "html":
        from .item_sheet import item_sheet

        rules = {"where": where or "everything", "not camera": ", ".join(not_camera) or "-"}
        shown = named
        if result.agreed is not None:
            used = (one.name for one in result.agreed.attributes if one.unused is None)
            shown = list(dict.fromkeys([*named, *used]))
            dropped, of = result.agreed.dropped, result.agreed.allowed
            rules["auto-filter"] = f"{dropped:,} of {of:,} items dropped"
        text, hidden = item_sheet(
            opened,
            result,
            images=looked_for.images,
            label=looked_for.label,
            person=person or looked_for.person,
            is_described=False,
            attributes=shown,
            title=title or f"{looked_for.label} in {opened.path.absolute().name}",
            rules=rules,
            root=root,
        )
    elif form == "csv":
        text = csv_text(result, columns=opened.items.column_names)
    elif form == "jsonl":
        text = jsonl(result)
    else:
        text = table(result, attributes=named)
    _write(text, out)
    notes = [result.fallback, result.note, hidden]
    if result.note is not None and result.agreed is not None and result.agreed.dropped:
        notes.append(
            f"--auto-filter dropped {result.agreed.dropped:,} of {result.agreed.allowed:,}; "
            "--explain says by which attribute"
        )
    if rerank and not explain:
        notes += _rerank_notes(result, is_item=item is not None)
    if opened.matcher is not None and not (rerank or explain or result.exact):
        notes.append(f"not exact: {result.plan}; --exact compares the parts of all")
    for note in filter(None, notes):
        click.echo(note, err=True)
    if explain:
        click.echo(_explanation(result, times, where=where, not_camera=not_camera), err=True)


def _refuse_senseless(
    target: Path | None, item: int | None, where: str | None, *, k: int, out: Path | None
) -> None:
    """Raise UsageError for options that make no sense, before anything is opened."""
    if (target is None) == (item is None) and (target is not None or where is None):
        raise UsageError(
            "name what to look for: a TARGET or --item N, one of the two, or --where alone to list "
            "what it describes"
        )
    if k < 1:
        raise UsageError(f"--top must be at least 1, got {k}")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.absolute().parent}")


def _refuse_clashing(
    *, rerank: bool, exact: bool, recall: float | None, search_device: str
) -> None:
    """Raise UsageError for options on how to search that make no sense together."""
    if exact and recall is not None:
        raise UsageError("--exact and --recall ask for different things: give one of them")
    if not rerank:
        refuse_given("k1", "k2", "lambda_", "rerank_graph", without="--rerank")
    elif recall is not None:
        raise UsageError("--rerank asks no index, so --recall says nothing: leave it out")
    elif search_device != "cpu":
        raise UsageError("--rerank uses no GPU here, so --search-device says nothing: leave it out")


def _refuse_shortlist(gallery: "Gallery", shortlist: int | None, *, exact: bool) -> None:
    """Raise UsageError for a shortlist that says nothing of this gallery, or that none can be."""
    if shortlist is None:
        return
    if exact:
        raise UsageError("--exact compares the parts of all that is allowed, no shortlist of them")
    if shortlist < 1:
        raise UsageError(f"--shortlist must be at least 1, got {shortlist}")
    if gallery.matcher is None:
        raise UsageError(
            f"{gallery.path} compares items by their vectors alone, so --shortlist says nothing: "
            "leave it out"
        )


def _target(
    gallery: "Gallery",
    path: Path | None,
    item: int | None,
    *,
    box: str | None,
    boxes: Path | None,
    position: int | None,
    weights: Path | None,
    attributes: Path | None,
    predict: bool,
    root: Path | None,
    device: str,
) -> "Target":
    from .target import file_target, item_target

    if path is None:
        if box or boxes or position:
            raise UsageError(
                "--item has its own picture: --box, --boxes and --position say nothing"
            )
        return item_target(gallery, item or 0, other_root=root)
    return file_target(
        gallery,
        path,
        box=None if box is None else parse_box(box),
        boxes=boxes,
        position=position,
        weights=weights,
        attributes=attributes,
        predict=predict,
        device=device,
    )


def parse_box(text: str) -> tuple[float, float, float, float]:
    """ "X,Y,W,H" as numbers of pixels. Raises UsageError."""
    import math

    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--box {text!r}: four numbers X,Y,W,H, please") from None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise UsageError(f"--box {text!r}: width and height must be above 0")
    return x, y, width, height


def _threshold(gallery: "Gallery", text: str | None, rate: float | None) -> float | None:
    if rate is not None and text != "auto":
        raise UsageError("--false-match-rate belongs to --threshold auto")
    if text is None:
        return None
    if text == "auto":
        from .calibrate import auto_threshold

        return auto_threshold(gallery, rate)
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--threshold {text!r}: a number or `auto`, please") from None


def _rerank_notes(result: "Result", *, is_item: bool) -> list[str]:
    """What a reader of re-ranked ranks must know."""
    notes = [] if result.exact else [f"not exact: {result.plan}"]
    if is_item:
        notes.append("the item is in the graph twice, as query and as itself")
    return notes


def _write(text: str, out: Path | None) -> None:
    if out is None:
        # With color off, click would cut escape codes out of file names in the data.
        click.echo(text, nl=False, color=True)
        return
    if out.is_dir():
        raise UsageError(f"{out} is a folder; --out names the file to write")
    from reid_index.files import replace_file

    replace_file(out, text.encode())


def _explanation(
    result: "Result", times: dict[str, float], *, where: str | None, not_camera: tuple[str, ...]
) -> str:
    expected = sorted(result.expected.items(), key=lambda way: way[1])
    lines = [
        f"generation  {result.generation}",
        f"where       {where or '-'}",
        f"not camera  {', '.join(not_camera) or '-'}",
        f"allowed     {result.allowed:,} of {result.rows:,} items",
        f"plan        {result.plan}",
        "expected    " + (", ".join(f"{way} {1000 * s:.2g} ms" for way, s in expected) or "-"),
        f"exact       {'yes' if result.exact else 'no'}",
    ]
    stages = times | dict(result.seconds)
    spent = " · ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in stages.items())
    lines.append(f"ms          {spent}")
    if result.agreed is not None:
        from .agreeing import explained

        lines.append(explained(result.agreed))
    return "\n".join(lines)

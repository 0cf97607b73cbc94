"""`reid query` where the answer is candidates: videos and tracks, compared segment by segment."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reid_index.errors import UsageError

from .aggregate_options import Aggregate, parse_aggregate
from .cameras import parse_cameras
from .candidate_options import refuse_with_candidates

if TYPE_CHECKING:
    from extractors.segmenting import Cut
    from reid_index import Gallery
    from reid_index.search.video_result import VideoResult

    from .attribute_options import AutoFilter
    from .strips import Shot
    from .video_target import VideoTarget


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says of a search for candidates, as it says it."""

    path: Path | None
    item: int | None
    box: tuple[float, float, float, float] | None
    boxes: Path | None
    position: int | None
    tracks: Path | None
    track: str | None
    segment: int | None
    stride: int | None
    aggregate: str | None
    proportion: float | None
    where: str | None
    not_camera: tuple[str, ...]
    auto_filter: "AutoFilter | None"
    k: int
    shortlist: int | None
    exact: bool
    person: str | None
    title: str | None
    weights: Path | None
    attributes: Path | None
    root: Path | None
    device: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """text: the answer in the form asked for. notes: lines for whoever reads it. explanation: how
    it was found."""

    text: str
    notes: Sequence[str]
    explanation: str


def asks_for_candidates(gallery: "Gallery", path: Path | None, aggregate: str | None) -> bool:
    """Whether the answer is candidates: where the gallery is of segments, the target is a video, or
    somebody says how scores are made of pairs."""
    from extractors.video.sources import is_video

    of_segments = "segments" in gallery.manifest.recipe
    return of_segments or aggregate is not None or (path is not None and is_video(path))


def answer_candidates(
    gallery: "Gallery", asked: Asked, *, form: str, times: dict[str, float]
) -> Answered:
    """Search for candidates and write the answer down. times: seconds of the stages so far.

    Raises UsageError for options that say nothing here, and what targets and searches raise.
    """
    import time

    refuse_with_candidates()
    aggregate = parse_aggregate(asked.aggregate, asked.proportion, default=_usual(gallery))
    start = time.perf_counter()
    target = _target(gallery, asked)
    times["target"] = time.perf_counter() - start
    agreement = None
    if asked.auto_filter is not None:
        from .agreeing import agreement_of

        agreement = agreement_of(
            target.attributes, asked.auto_filter, label=target.shown.label, path=gallery.path
        )
    result = gallery.search_videos(
        target.vectors,
        index=target.index,
        k=asked.k,
        where=asked.where,
        not_camera=parse_cameras(asked.not_camera, target.camera),
        agreement=agreement,
        how=aggregate.how,
        above=aggregate.above,
        top=aggregate.proportion,
        shortlist=asked.shortlist,
        exact=asked.exact,
    )
    weights = _attention(gallery, target, result)
    notes = _notes(result, aggregate)
    told = [*target.faults, *_of_whole_frames(gallery, asked), *notes]
    if form == "html":
        text, hidden = _sheet(
            gallery, result, target, weights, asked=asked, rule=aggregate.rule, notes=notes
        )
        told += hidden
    else:
        from .video_formats import csv_text, jsonl, table

        if form == "jsonl":
            text = jsonl(result, weights=weights)
        else:
            text = {"table": table, "csv": csv_text}[form](result)
    explanation = _explanation(result, asked, rule=aggregate.rule, times=times)
    return Answered(text=text, notes=told, explanation=explanation)


def _of_whole_frames(gallery: "Gallery", asked: Asked) -> list[str]:
    """A warning where whole frames are compared with people."""
    from extractors.video.sources import WHOLE, is_video

    if asked.path is None or asked.tracks is not None or not is_video(asked.path):
        return []
    if set(gallery.items["track"].unique().to_pylist()) <= {WHOLE}:
        return []
    return [
        f"the whole frames of {asked.path.name} are looked for; --tracks FILE says where somebody "
        "is in them"
    ]


def _usual(gallery: "Gallery") -> str:
    """What scores are of where nobody says. Probabilities that two segments show one person are
    summed, as in source 001: those of strangers add nothing. Cosines of strangers do, so that a sum
    of them would put long tracks first."""
    return "sum" if gallery.matcher is not None and gallery.matcher.of_frames else "mean"


def _target(gallery: "Gallery", asked: Asked) -> "VideoTarget":
    from .video_target import file_segments, item_segment

    if asked.path is None:
        options = ("box", "boxes", "position", "tracks", "track", "segment", "stride")
        for name in options:
            if getattr(asked, name) is not None:
                raise UsageError(f"--item has its own frames: --{name} says nothing")
        return item_segment(gallery, asked.item or 0)
    return file_segments(
        gallery,
        asked.path,
        tracks=asked.tracks,
        track=asked.track,
        box=asked.box,
        boxes=asked.boxes,
        position=asked.position,
        cut=_cut(gallery, asked),
        weights=asked.weights,
        attributes=asked.attributes,
        predict=asked.auto_filter is not None,
        device=asked.device,
    )


def _cut(gallery: "Gallery", asked: Asked) -> "Cut":
    """How the target is cut: as it is said, else as the gallery, else 8 frames every 4."""
    from extractors.segmenting import Cut

    from .sources import gallery_cut

    made = gallery_cut(gallery) or Cut()
    if asked.segment is not None:
        return Cut.of(asked.segment, asked.stride)
    return Cut(made.length, asked.stride or made.stride)


def _attention(
    gallery: "Gallery", target: "VideoTarget", result: "VideoResult"
) -> list[list[list[float] | None]]:
    """For each candidate and each of its winners: the share of attention that each frame of the
    candidate's segment has from the target's; None where vectors alone are compared.

    As the pair's similarity is made.
    """
    if target.index is None:
        return [[None] * len(one.winners) for one in result.candidates]
    import numpy as np

    from reid_index.search.coattention import attention

    ids = gallery.items["item"].to_numpy()
    order = np.argsort(ids)
    found: list[list[list[float] | None]] = []
    for one in result.candidates:
        found.append([])
        for winner in one.winners:
            row = int(order[np.searchsorted(ids, winner.match.item, sorter=order)])
            asks = target.index[[winner.target]]
            found[-1].append(attention(asks, gallery.frames([row]))[0].tolist())
    return found


def _notes(result: "VideoResult", aggregate: Aggregate) -> list[str]:
    from .formats import counted

    notes = []
    number = len(result.candidates)
    if number < result.k:
        if number == result.of:
            why = f": {result.allowed:,} of {result.rows:,} items are allowed"
        else:
            limit = aggregate.above
            why = "" if limit is None else f": the others have no pair that reaches {limit:g}"
        notes.append(f"only {counted(number, 'candidate')}{why}")
    if not result.exact:
        notes.append(f"not exact: {_covered(result)}; --exact compares the frames of all")
    return notes


def _covered(result: "VideoResult") -> str:
    return f"{result.covered:,} of {result.of:,} candidates have all of their pairs compared"


def _sheet(
    gallery: "Gallery",
    result: "VideoResult",
    target: "VideoTarget",
    weights: Sequence[Sequence[Sequence[float] | None]],
    *,
    asked: Asked,
    rule: str,
    notes: Sequence[str],
) -> tuple[str, list[str]]:
    """The page, and a line on the frames that it cannot show, if there are any."""
    from dataclasses import replace

    from .formats import counted
    from .strips import thumbnails
    from .video_sheet import render_video_sheet

    shown: list[bool] = []

    def pictures(shots: "Iterable[Shot]") -> "Mapping[Shot, str | None]":
        own = {shot for segment in target.shown.segments for shot in segment.shots}
        if asked.path is None:
            own = set()
        wanted = list(shots)
        found = thumbnails([shot for shot in wanted if shot not in own], other_root=asked.root)
        # Elsewhere there never were pictures.
        shown.extend(uri is not None for shot, uri in found.items() if shot.root or asked.root)
        return thumbnails([shot for shot in wanted if shot in own]) | found

    page = render_video_sheet(
        result,
        target=replace(target.shown, person=asked.person or target.shown.person),
        pictures=pictures,
        weights=_fitting(result, weights),
        title=asked.title or f"{target.shown.label} in {gallery.path.absolute().name}",
        rule=f"the score is {rule}",
        details=[
            ("gallery", f"{gallery.path.absolute().name}, generation {result.generation}"),
            ("extractor", gallery.fingerprint.name),
            ("where", asked.where or "everything"),
            ("not camera", ", ".join(asked.not_camera) or "-"),
            ("allowed", f"{result.allowed:,} of {result.rows:,} items"),
            ("target", counted(result.targets, "segment")),
            ("search", result.plan + (", exact" if result.exact else ", not exact")),
            ("time", f"{1000 * sum(result.seconds.values()):.1f} ms"),
        ],
        note="; ".join(notes) or None,
        footnote="A high rank is no proof of who somebody is.",
    )
    hidden = shown.count(False)
    if hidden == 0:
        return page, []
    return page, [
        f"{hidden:,} of {len(shown):,} frames cannot be shown; --root says where they are now"
    ]


def _fitting(
    result: "VideoResult", weights: Sequence[Sequence[Sequence[float] | None]]
) -> list[list[Sequence[float] | None]]:
    """The weights of segments whose frames can be named; of others nobody could say whose they
    are."""
    from .strips import shots_of

    return [
        [
            its if its is not None and len(its) == len(shots_of(winner.match)) else None
            for winner, its in zip(one.winners, of_one, strict=True)
        ]
        for one, of_one in zip(result.candidates, weights, strict=True)
    ]


def _explanation(result: "VideoResult", asked: Asked, *, rule: str, times: dict[str, float]) -> str:
    stages = times | dict(result.seconds)
    pairs = sum(one.pairs for one in result.candidates)
    lines = [
        f"generation  {result.generation}",
        f"where       {asked.where or '-'}",
        f"not camera  {', '.join(asked.not_camera) or '-'}",
        f"allowed     {result.allowed:,} of {result.rows:,} items, {result.of:,} candidates",
        f"target      {result.targets:,} segments",
        f"pairs       {result.targets * result.allowed:,}, of the answer {pairs:,}",
        f"score       {rule}",
        f"plan        {result.plan}",
        f"covered     {_covered(result)}",
        f"exact       {'yes' if result.exact else 'no'}",
    ]
    spent = " · ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in stages.items())
    lines.append(f"ms          {spent}")
    if result.agreed is not None:
        from .agreeing import explained

        lines.append(explained(result.agreed))
    return "\n".join(lines)

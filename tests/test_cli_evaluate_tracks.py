"""`reid evaluate` of tracklets by their segments, from pictures to figures: against all pairs of
segments, sorted."""

import csv
import hashlib
import json
import math
from itertools import product

import numpy as np
import pytest
from cli_world import assert_refused, pixels_of, run, stripes_of, succeed
from conftest import FINGERPRINT
from evaluation_world import assert_figures, evaluated, figures, unit
from scipy.io import savemat
from test_coattention import by_loops, drawn
from test_coattention_network import PLAN, made
from test_sheet import parse
from training_world import FED

from cli.world import draw_crop
from extractors.trained import Model, TrainedExtractor, write_model
from reid_index import Gallery, Matcher, SegmentFrames
from reid_index.search.coattention import own_codes

STRIPES = ("--extractor", "stripes")
CUT = ("--segment", 4, "--stride", 2)
MEAN = ("--aggregate", "mean")
SAID = "the mean of the best 20 % of all pairs of segments"

# What is to come out, written down once more


def segments_of(frames, length=4, stride=2):
    """Unit vectors of the segments of a tracklet's unit vectors, in order."""
    if len(frames) <= length:
        return unit([frames.mean(axis=0)])
    firsts = [first for first in range(0, len(frames) - length + 1, stride)]
    if firsts[-1] + length != len(frames):
        firsts.append(len(frames) - length)
    return unit([frames[first : first + length].mean(axis=0) for first in firsts])


def score(pairs, how="mean", share=0.2, above=None):
    """Of all pairs' similarities."""
    ordered = sorted(np.ravel(pairs).tolist(), reverse=True)
    if above is not None:
        return math.fsum(one for one in ordered if one >= above)
    best = ordered[: max(1, math.ceil(share * len(ordered) - 1e-9))]
    return math.fsum(best) / (len(best) if how == "mean" else 1)


def keys_of(asked, searched, **rule):
    """−score of all tracklets, given as their segments."""
    return np.array([[-score(one @ other.T, **rule) for other in searched] for one in asked])


class Tracklets:
    """One side: `records` as `figures` wants them, and each one's unit vectors of frames."""

    def __init__(self, records):
        self.records = [record | {"item": item} for item, record in enumerate(records)]
        self.frames = [stripes_of(*map(pixels_of, record["files"])) for record in records]

    def segments(self, *cut):
        return [segments_of(frames, *cut) for frames in self.frames]


def expected(asked, searched, *, cut=(), how="mean", share=0.2, above=None, **rules):
    keys = keys_of(asked.segments(*cut), searched.segments(*cut), how=how, share=share, above=above)
    return figures(keys, asked.records, searched.records, **rules)


def write_list(path, tracklets):
    """A list that `reid build` takes."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "person", "camera", "track", "role", "frame_first"])
        for track, record in enumerate(tracklets.records):
            role = "" if record["person"] else "distractor"
            for frame, name in enumerate(record["files"]):
                lines.writerow([name, record["person"], record["camera"], track, role, frame])
    return path


# MARS

TRACKS = (
    *(("0001", 1, 9), ("0001", 2, 3), ("0001", 2, 14), ("0001", 3, 1)),
    *(("0002", 1, 6), ("0002", 3, 8), ("0000", 2, 7), ("0000", 1, 2)),
    *(("0003", 2, 12), ("0003", 1, 4), ("00-1", 1, 5), ("0004", 1, 10)),
    *(("0004", 2, 2), ("0005", 3, 5), ("0005", 1, 17), ("0003", 3, 1)),
)
"""Person, camera and frames of each tracklet of test."""

QUERIES = (1, 3, 5, 9, 12, 13, 14)
"""Rows of them, from 1. In the common protocol, both tracklets of person 4 are gone from the
gallery, so they have no match."""


@pytest.fixture(scope="module")
def mars(tmp_path_factory):
    """A folder in MARS's layout, and its tracklets, by row."""
    root = tmp_path_factory.mktemp("mars")
    names, table, records = [], [], []
    for track, (person, camera, frames) in enumerate(TRACKS, start=1):
        some = [f"{person}C{camera}T{track:04d}F{frame:03d}.png" for frame in range(1, frames + 1)]
        table.append((len(names) + 1, len(names) + frames, int(person[-2:]), camera))
        names += some
        files = [root / "bbox_test" / person / name for name in some]
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for frame, path in enumerate(files):
            looks = int(person) if person not in ("0000", "00-1") else 60 + track
            draw_crop(person=looks, camera=camera, frame=97 * track + frame).save(path)
        known = None if person == "0000" else person
        records.append({"person": known, "camera": camera, "files": files})
    info = root / "info"
    info.mkdir()
    (info / "test_name.txt").write_text("\n".join(names))
    savemat(info / "tracks_test_info.mat", {"track_test_info": np.array(table)})
    savemat(info / "query_IDX.mat", {"query_IDX": np.array([QUERIES])})
    return root, records


def sides_of(mars, protocol):
    """Queries and gallery, in the reader's order."""
    _, records = mars
    kept = [row for row, track in enumerate(TRACKS, start=1) if track[0] != "00-1"]
    if protocol == "mars-torchreid":
        kept = [row for row in kept if row not in QUERIES]
    return (Tracklets([records[row - 1] for row in rows]) for rows in (QUERIES, kept))


@pytest.mark.parametrize(
    ("protocol", "rules"),
    [("mars-official", {"rule": "trapezoid", "zero": True}), ("mars-torchreid", {})],
)
@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (MEAN, {}),
        (("--aggregate", "sum"), {"how": "sum"}),
        ((*MEAN, "--proportion", 1), {"share": 1}),
        (("--aggregate", "above:0.9"), {"above": 0.9}),
    ],
)
def test_mars_as_a_folder(mars, protocol, rules, options, rule):
    asked, searched = sides_of(mars, protocol)
    found, rest, told = evaluated(
        mars[0], mars[0], "--protocol", protocol, *options, *CUT, *STRIPES
    )
    assert_figures(found, expected(asked, searched, **rule, **rules))
    assert found["queries"] == 7
    assert found["answerable"] == (7 if protocol == "mars-official" else 5)
    assert (rest["matcher"], rest["rerank"]) == (None, None)
    assert "frames in 7 tracks" in told
    assert "are compared by" not in told


def test_options_change_the_figures_of_this_world(mars):
    """Or the tests above would hold whatever was computed."""
    asked, searched = sides_of(mars, "mars-official")
    rules = ({}, {"how": "sum"}, {"share": 1}, {"above": 0.9}, {"cut": (8, 4)})
    assert len({expected(asked, searched, **rule)["mAP"] for rule in rules}) == len(rules)


def test_mars_as_galleries(mars, tmp_path):
    """The gallery from the folder, by its names; the queries from a list."""
    asked, searched = sides_of(mars, "mars-official")
    queries = write_list(tmp_path / "q.csv", asked)
    succeed("build", mars[0] / "bbox_test", "--out", tmp_path / "g", *CUT, *STRIPES)
    succeed("build", queries, "--out", tmp_path / "q", *CUT, *STRIPES)
    both = (tmp_path / "g", tmp_path / "q", "--protocol", "mars-official")
    rules = {"rule": "trapezoid", "zero": True}
    # By names: the order of the folder, which ties would show.
    searched = Tracklets(sorted(searched.records, key=lambda record: record["files"][0]))
    found, rest, told = evaluated(*both)
    assert_figures(found, expected(asked, searched, **rules))
    assert rest["aggregate"] == SAID
    assert f"tracklets are compared by {SAID}; --aggregate says otherwise" in told
    found, rest, _ = evaluated(*both, "--aggregate", "sum", "--proportion", 0.5)
    assert_figures(found, expected(asked, searched, how="sum", share=0.5, **rules))
    assert rest["aggregate"] == "the sum of the best 50 % of all pairs of segments"

    # A folder beside a gallery is cut as that is.
    found, _, told = evaluated(tmp_path / "g", mars[0], *both[2:])
    assert_figures(found, expected(asked, searched, **rules))
    found, _, _ = evaluated(tmp_path / "g", mars[0], *both[2:], "--segment", 3)
    keys = keys_of(asked.segments(3, 1), searched.segments())
    assert_figures(found, figures(keys, asked.records, searched.records, **rules))
    assert figures(keys, asked.records, searched.records, **rules) != expected(
        asked, searched, **rules
    )


def test_a_gallery_with_itself(mars, tmp_path):
    """Of one camera only, so that nothing but its id tells that a tracklet is the query's."""
    records = [record for record in mars[1] if record["person"] not in ("00-1", "0004", None)]
    every = Tracklets([record | {"camera": None} for record in records])
    succeed("build", write_list(tmp_path / "l.csv", every), "--out", tmp_path / "g", *CUT, *STRIPES)
    found, _, _ = evaluated(tmp_path / "g", tmp_path / "g")
    assert_figures(found, expected(every, every, same_item=True))
    assert found["queries"] == found["gallery"] == 11

    shard = tmp_path / "g" / Gallery.open(tmp_path / "g").manifest.shards[0].folder
    result = run("evaluate", tmp_path / "g", shard)
    assert_refused(result, code=2, text="one side is a shard of the other")
    found, _, _ = evaluated(shard, shard)
    assert_figures(found, expected(every, every, same_item=True))


def test_tracklets_of_a_gallery_of_crops(mars, tmp_path):
    """Each crop is a segment of one frame. Deleted ones do not count."""
    asked, searched = sides_of(mars, "mars-torchreid")
    for name, side in (("q", asked), ("g", searched)):
        listed = write_list(tmp_path / f"{name}.csv", side)
        succeed("build", listed, "--out", tmp_path / name, *STRIPES)
    both = (tmp_path / "g", tmp_path / "q", "--protocol", "mars-torchreid")
    found, rest, _ = evaluated(*both, *MEAN, "--proportion", 0.3)
    assert_figures(found, expected(asked, searched, cut=(1, 1), share=0.3))
    first, *others = searched.records
    searched = Tracklets([first | {"files": first["files"][1:]}, *others])
    succeed("delete", tmp_path / "g", "--item", 0)
    with Gallery.open(tmp_path / "g") as gallery:
        assert len(gallery) == sum(map(len, searched.frames))
    found, rest, _ = evaluated(*both, *MEAN, "--proportion", 0.3)
    assert_figures(found, expected(asked, searched, cut=(1, 1), share=0.3))
    # Without --aggregate, as ever: one vector for each tracklet, the mean of its frames.
    means = [unit([frames.mean(axis=0) for frames in side.frames]) for side in (asked, searched)]
    found, rest, _ = evaluated(*both)
    assert_figures(found, figures(-means[0] @ means[1].T, asked.records, searched.records))
    assert rest["aggregate"] is None


# iLIDS-VID and PRID


def two_cameras(base, names, cameras, *, frames):
    """Folders of so many frames for each person, and their records by camera."""
    records = {}
    for (camera, folder), (person, name) in product(enumerate(cameras, 1), enumerate(names, 1)):
        files = []
        for frame in range(frames(person, camera)):
            path = base / folder / name / f"{frame:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_crop(person=person, camera=camera, frame=frame).save(path)
            files.append(path)
        records[camera, name] = {"person": name, "camera": camera, "files": files}
    return records


def halves(records, names, *, split):
    """The test half of a split without a file of splits: queries and gallery."""
    order = sorted(names, key=lambda name: hashlib.sha256(f"{split} {name}".encode()).digest())
    tested = sorted(order[: len(order) // 2])
    return (Tracklets([records[camera, name] for name in tested]) for camera in (1, 2))


def test_ilids_vid(tmp_path):
    names = [f"person{person:03d}" for person in range(1, 15)]
    base = tmp_path / "i-LIDS-VID" / "sequences"
    records = two_cameras(
        base, names, ("cam1", "cam2"), frames=lambda person, camera: 1 + (5 * person + camera) % 11
    )
    asked, searched = halves(records, names, split=3)
    options = ("--protocol", "ilids-vid", "--split-number", 3, *MEAN, *CUT, *STRIPES)
    found, _, _ = evaluated(tmp_path, tmp_path, *options)
    assert_figures(found, expected(asked, searched))
    assert (found["queries"], found["gallery"]) == (7, 7)
    # As galleries, by folders.
    for name, side in (("q", asked), ("g", searched)):
        listed = write_list(tmp_path / f"{name}.csv", side)
        succeed("build", listed, "--out", tmp_path / name, *CUT, *STRIPES)
    found, _, _ = evaluated(tmp_path / "g", tmp_path / "q", "--protocol", "ilids-vid")
    assert_figures(found, expected(asked, searched))


def test_prid2011(tmp_path):
    names = [f"person_{person:04d}" for person in range(1, 9)]
    base = tmp_path / "prid_2011" / "multi_shot"
    records = two_cameras(
        base, names, ("cam_a", "cam_b"), frames=lambda person, camera: 2 + person * camera
    )
    splits = [{"test": names[::2], "train": names[1::2]}]
    (tmp_path / "splits_prid2011.json").write_text(json.dumps(splits))
    asked, searched = (
        Tracklets([records[camera, name] for name in names[::2]]) for camera in (1, 2)
    )
    options = ("--protocol", "prid2011", "--aggregate", "sum", *STRIPES)
    found, _, _ = evaluated(tmp_path, tmp_path, *options)
    assert_figures(found, expected(asked, searched, cut=(8, 4), how="sum"))


def test_a_list_as_dataset(mars, tmp_path):
    """Its column split says which side; without a track, a crop is one by itself."""
    asked, searched = sides_of(mars, "mars-torchreid")
    lines = []
    for part, side in (("query", asked), ("gallery", searched)):
        rows = write_list(tmp_path / "one.csv", side).read_text().splitlines()
        lines = lines or [f"{rows[0]},split"]
        lines += [f"{row},{part}" for row in rows[1:]]
    path = tmp_path / "l.csv"
    path.write_text("\n".join(lines))
    found, _, _ = evaluated(path, path, "--protocol", "csv", *MEAN, *CUT, *STRIPES)
    assert_figures(found, expected(asked, searched))


# Files


def test_a_row_and_a_strip_for_each_tracklet(mars, tmp_path):
    pytest.importorskip("matplotlib")
    asked, searched = sides_of(mars, "mars-torchreid")
    keys = keys_of(asked.segments(), searched.segments(), how="sum")
    options = ("--protocol", "mars-torchreid", "--aggregate", "sum", *CUT, *STRIPES)
    files = ("--per-query", tmp_path / "q.csv", "--report", tmp_path / "r")
    evaluated(mars[0], mars[0], *options, *files)
    with (tmp_path / "q.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(QUERIES)
    for row, record, key in zip(rows, asked.records, keys, strict=True):
        files = record["files"]
        assert mars[0] / row["source"] == files[min(4, len(files)) // 2]
        assert (row["person"], int(row["camera"])) == (record["person"], record["camera"])
        relevant = sum(
            other["person"] == record["person"] and other["camera"] != record["camera"]
            for other in searched.records
        )
        assert int(row["relevant"]) == relevant
        if relevant:
            one = figures([key], [record], searched.records)
            assert float(row["ap"]) == pytest.approx(one["mAP"])
    page = parse((tmp_path / "r" / "report.html").read_text())
    text = " ".join(page.all("body")[0].text.split())
    assert "the sum of the best 20 % of all pairs of segments" in text
    shown = [" ".join(card.text.split()) for card in page.of_class("candidate")]
    assert len(page.all("img")) == 3 + len(shown) + len(page.all("h3"))
    scores = {f"{-key:.3f}" for key in keys.ravel()}
    assert {card.split("similarity ")[1].split()[0] for card in shown} <= scores


# Co-attention

HEAD = tuple((0.1 * np.random.default_rng(8).normal(size=12) - 0.05).tolist())
COATTENTION = Matcher(name="coattention", head=HEAD, bias=0.5)


@pytest.fixture(scope="module")
def attending(tmp_path_factory):
    """Galleries of segments with frames, and what there is of each tracklet."""
    folder, sides = tmp_path_factory.mktemp("attending"), {}
    rng = np.random.default_rng(4)
    for name, seed, tracks in (("q", 1, 7), ("g", 2, 15)):
        sizes = rng.integers(1, 6, tracks)
        frames = drawn(int(sizes.sum()), seed=seed, dk=6, dv=12, longest=5)
        # As an encoder yields them; the gallery keeps them at length 1.
        codes = own_codes(frames)
        track_of = np.repeat(np.arange(tracks), sizes)
        records = [
            {"person": f"p{track % 4}", "camera": track % 3, "track": f"t{track}"}
            for track in range(tracks)
        ]
        items = [records[track] | {"source": f"f/{row}.png"} for row, track in enumerate(track_of)]
        with Gallery.create(
            folder / name,
            dim=12,
            fingerprint=FINGERPRINT,
            matcher=COATTENTION,
            recipe={"extractor": "x", "segments": {"length": 8, "stride": 4}},
        ) as gallery:
            gallery.add(codes, items, frames=frames)
        groups = [np.flatnonzero(track_of == track) for track in range(tracks)]
        ids = [
            record | {"item": int(rows[0])} for record, rows in zip(records, groups, strict=True)
        ]
        sides[name] = (ids, groups, codes, frames)
    return folder, sides


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ((), {}),
        (("--aggregate", "sum", "--proportion", 0.4), {"how": "sum", "share": 0.4}),
        (("--aggregate", "above:0.3"), {"above": 0.3}),
        (("--global-only",), {}),
    ],
)
def test_co_attention(attending, options, rule):
    folder, sides = attending
    asked, of_asked, codes, frames = sides["q"]
    searched, of_searched, others, candidates = sides["g"]
    pairs, _ = by_loops(codes, frames.index, candidates, COATTENTION)
    if "--global-only" in options:
        pairs = unit(codes) @ unit(others).T
    keys = np.array([[-score(pairs[np.ix_(p, g)], **rule) for g in of_searched] for p in of_asked])
    found, rest, _ = evaluated(folder / "g", folder / "q", *options)
    assert_figures(found, figures(keys, asked, searched))
    by = None if "--global-only" in options else "coattention over frames, 12 dimensions"
    assert rest["matcher"] == by


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of co-attention with weights drawn at random."""
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    write_model(path, Model(made(), PLAN, FED, {}))
    return path


def of_network(side, extractor):
    """The tracklets' segments as the network encodes them: codes, frames, rows of each."""
    every, lengths, groups = [], [], []
    for record in side.records:
        frames = extractor.extract([pixels_of(path) for path in record["files"]]).global_
        spans = [frames] if len(frames) <= 4 else []
        if not spans:
            firsts = list(range(0, len(frames) - 3, 2))
            firsts += [len(frames) - 4] if firsts[-1] + 4 != len(frames) else []
            spans = [frames[first : first + 4] for first in firsts]
        groups.append(np.arange(len(lengths), len(lengths) + len(spans)))
        every += spans
        lengths += map(len, spans)
    offset = np.concatenate([[0], np.cumsum(lengths)])
    found = extractor.segments.encode(np.concatenate(every), offset)
    return found.global_, SegmentFrames(found.index, found.key, found.value, offset), groups


def test_a_network_of_co_attention(mars, model, tmp_path):
    """As the extractor of folders, of galleries, and of a folder beside a gallery; tracklets are
    compared by their segments without being asked."""
    asked, searched = sides_of(mars, "mars-torchreid")
    extractor = TrainedExtractor(model)
    codes, frames, of_asked = of_network(asked, extractor)
    _, candidates, of_searched = of_network(searched, extractor)
    pairs, _ = by_loops(codes, frames.index, candidates, extractor.segments.matcher)
    keys = np.array([[-score(pairs[np.ix_(p, g)]) for g in of_searched] for p in of_asked])
    apart = np.diff(np.sort(keys, axis=1), axis=1)
    assert apart.min() > 1e-5  # no rank is left to rounding
    wanted = figures(keys, asked.records, searched.records)

    named = ("--extractor", "trained", "--weights", model)
    options = ("--protocol", "mars-torchreid")
    found, rest, told = evaluated(mars[0], mars[0], *options, *CUT, *named)
    assert_figures(found, wanted)
    assert rest["matcher"] == "coattention over frames, 8 dimensions"
    assert rest["aggregate"] == SAID
    assert "are compared by the mean of the best 20 %" in told
    for name, side in (("q", asked), ("g", searched)):
        listed = write_list(tmp_path / f"{name}.csv", side)
        succeed("build", listed, "--out", tmp_path / name, *CUT, *named)
    assert_figures(evaluated(tmp_path / "g", tmp_path / "q", *options)[0], wanted)
    assert_figures(evaluated(tmp_path / "g", mars[0], *options)[0], wanted)
    plain, rest, _ = evaluated(tmp_path / "g", tmp_path / "q", *options, "--global-only")
    assert (rest["matcher"], rest["aggregate"]) == (None, SAID)
    assert plain != found


# What is refused


@pytest.fixture(scope="module")
def stored(mars, tmp_path_factory):
    """Galleries by name: of segments, of crops, and both by another metric."""
    folder = tmp_path_factory.mktemp("stored")
    _, searched = sides_of(mars, "mars-torchreid")
    listed = write_list(folder / "l.csv", searched)
    for metric, (kind, cut) in product(("cosine", "euclidean"), (("s", CUT), ("c", ()))):
        out = folder / f"{kind}-{metric}"
        succeed("build", listed, "--out", out, "--metric", metric, *cut, *STRIPES)
    (folder / "split.csv").write_text("file,split\na,query\nb,gallery\n")
    return folder


@pytest.mark.parametrize(
    ("sides", "options", "text"),
    [
        (("s", "s"), ("--rerank", "joint"), "--rerank compares items of one vector, not tracklets"),
        (("s", "s"), ("--with", "s", "s"), "--with fuses items of one vector, not tracklets"),
        (("s", "s"), ("--split", "split.csv"), "--split names files, and segments are of several"),
        (("s", "s"), ("--segment", "8"), "--segment, --stride are for dataset folders"),
        (("s", "s"), ("--aggregate", "max"), "--aggregate 'max': sum, mean or above:S"),
        (("s", "s"), ("--aggregate", "above:x"), "above:S, where S is a number"),
        (("s", "s"), ("--aggregate", "above:-0.1"), "needs a threshold of 0 or more"),
        (("s", "s"), ("--aggregate", "above:1", "--proportion", "0.2"), "leave --proportion out"),
        (("s", "s"), ("--proportion", "0"), "--proportion must be above 0 and at most 1, got 0"),
        (("c", "c"), ("--proportion", "0.2"), "--proportion is of segments: say --aggregate mean"),
        (("c", "c"), ("--stride", "2"), "--stride is of segments"),
        (("c", "c"), (*MEAN, "--rerank", "query"), "--rerank compares items of one vector"),
        (("MARS", "MARS"), (*MEAN, "--segment", "4", "--stride", "5", *STRIPES), "--stride: "),
        (("MARS", "MARS"), (*MEAN, "--split", "split.csv", *STRIPES), "--split names files"),
    ],
)
def test_what_has_no_answer(mars, stored, sides, options, text):
    places = {"MARS": mars[0], "split.csv": stored / "split.csv"}
    places |= {kind: stored / f"{kind}-cosine" for kind in "sc"}
    arguments = [places.get(one, one) for one in (*sides, *options)]
    result = run("evaluate", *arguments, "--protocol", "mars-torchreid")
    assert_refused(result, code=2, text=text)


def test_what_has_no_answer_in_euclidean_galleries(mars, stored):
    crops, segments = stored / "c-euclidean", stored / "s-euclidean"
    result = run("evaluate", segments, segments, "--aggregate", "above:0.5")
    assert_refused(result, code=2, text="needs similarities: ")
    result = run("evaluate", crops, segments)
    assert_refused(result, code=2, text="c-euclidean compares crops by euclidean, and the other")
    result = run("evaluate", crops, mars[0], *MEAN, "--protocol", "mars-torchreid")
    assert_refused(result, code=2, text="c-euclidean compares crops by euclidean, and the other")


def test_euclidean_distances_are_averaged(mars, stored, tmp_path):
    pytest.importorskip("matplotlib")
    _, searched = sides_of(mars, "mars-torchreid")
    segments = []
    for frames in searched.frames:
        firsts = list(range(0, max(1, len(frames) - 3), 2))
        firsts += [len(frames) - 4] if len(frames) > 4 and firsts[-1] + 4 != len(frames) else []
        segments.append(np.array([frames[first : first + 4].mean(axis=0) for first in firsts]))
    asked = [row for row, record in enumerate(searched.records) if record["person"]]
    gaps = [[np.linalg.norm(segments[a][:, None] - b, axis=2) for b in segments] for a in asked]
    keys = np.array([[-score(-gap) for gap in row] for row in gaps])
    folder = stored / "s-euclidean"
    found, _, _ = evaluated(folder, folder, "--report", tmp_path / "r")
    records = [searched.records[row] for row in asked]
    assert_figures(found, figures(keys, records, searched.records, same_item=True))
    page = parse((tmp_path / "r" / "report.html").read_text())
    shown = [" ".join(card.text.split()) for card in page.of_class("candidate")]
    distances = {float(card.split("distance ")[1].split()[0]) for card in shown}
    assert all(np.abs(keys - one).min() < 0.0006 for one in distances)


def test_a_folder_of_crops_is_not_cut(mars):
    options = ("--protocol", "mars-official", "--segment", 4, *STRIPES)
    result = run("evaluate", mars[0], mars[0], *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("reid: --segment is of segments: say --aggr")

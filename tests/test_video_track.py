"""Tracks out of raw videos, by a detector made here that finds red and blue, and by a real one."""

import csv
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_world import ENVIRONMENT, REID, assert_refused, run, succeed
from onnx import TensorProto, helper, numpy_helper
from video_world import box_of, draw, write_video

from extractors.openvino import import_openvino
from extractors.video.detect import open_detector
from extractors.video.sources import find_videos
from extractors.video.track import COLUMNS, write_tracks
from extractors.video.tracks import read_tracks
from reid_index.errors import BadWeights, MissingExtra, NothingToIndex, UnreadableVideo

pytest.importorskip("trackers", reason="trackers is not installed (the extra video)")

DATA = Path(__file__).parents[2] / "shared" / "data"
VIDEO = DATA / "video" / "one-by-one-person-detection.mp4"
DETECTOR = DATA / "models" / "person-detection-retail-0013.xml"

SIZE = (64, 96)
"""The detector's input: that of the videos, so that boxes are exact."""


def colour_detector(path: Path, *, columns: int = 7) -> Path:
    """An ONNX network whose rows are the box around what is more red than blue, and the other way
    round, each as sure as a quarter of its area in thousands of pixels is; then one of another
    label, and an end."""
    height, width = SIZE
    nodes, constants = [], []

    def constant(name: str, value: Any, kind: Any = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def op(kind: str, inputs: list[str], out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    constant("step", 100.0)
    for name in ("b", "r"):
        constant(f"begin_{name}", [0 if name == "b" else 2], np.int64)
        constant(f"end_{name}", [1 if name == "b" else 3], np.int64)
        constant(f"axis_{name}", [1], np.int64)
        op("Slice", ["image", f"begin_{name}", f"end_{name}", f"axis_{name}"], name)
    rows = []
    constant("across", np.arange(width, dtype=np.float32).reshape(1, 1, 1, width))
    constant("down", np.arange(height, dtype=np.float32).reshape(1, 1, height, 1))
    for k, (more, less) in enumerate((("r", "b"), ("b", "r"))):
        op("Sub", [more, less], f"diff{k}")
        op("Greater", [f"diff{k}", "step"], f"mask{k}")
        cells = []
        for low, axis, size in (("x", "across", width), ("y", "down", height)):
            op("Where", [f"mask{k}", axis, constant(f"far{low}{k}", float(size))], f"l{low}{k}")
            op("ReduceMin", [f"l{low}{k}"], f"min{low}{k}", keepdims=1)
            op("Where", [f"mask{k}", axis, constant(f"near{low}{k}", -1.0)], f"h{low}{k}")
            op("ReduceMax", [f"h{low}{k}"], f"max{low}{k}", keepdims=1)
            op("Add", [f"max{low}{k}", constant(f"one{low}{k}", 1.0)], f"top{low}{k}")
            for edge in (f"min{low}{k}", f"top{low}{k}"):
                op("Div", [edge, constant(f"size{edge}", float(size))], f"rel{edge}")
            cells.append((f"relmin{low}{k}", f"reltop{low}{k}"))
        op("Cast", [f"mask{k}"], f"count{k}", to=TensorProto.FLOAT)
        op("ReduceSum", [f"count{k}"], f"area{k}", keepdims=1)
        op("Div", [f"area{k}", constant(f"per{k}", 500.0)], f"sure{k}")
        zero = constant(f"zero{k}", np.zeros((1, 1, 1, 1)))
        label = constant(f"label{k}", np.ones((1, 1, 1, 1)))
        (x0, x1), (y0, y1) = cells
        rows.append(op("Concat", [zero, label, f"sure{k}", x0, y0, x1, y1], f"row{k}", axis=3))
    other = constant("other", np.array([[[[0, 2, 1, 0, 0, 1, 1]]]]))
    end = constant("end", np.array([[[[-1, 0, 0, 0, 0, 0, 0]]]]))
    ghost = constant("ghost", np.array([[[[0, 1, 1, 0, 0, 1, 1]]]]))
    op("Concat", [*rows, other, end, ghost], "all", axis=2)
    constant("cut", [columns], np.int64)
    constant("first", [0], np.int64)
    constant("last", [3], np.int64)
    op("Slice", ["all", "first", "cut", "last"], "found")
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return colour_detector(tmp_path / "detector.onnx")


def test_people_in_a_frame(detector: Path) -> None:
    boxes, sure = open_detector(detector).detect(draw(7), least=0.5)
    expected = [(x, y, x + w, y + h) for x, y, w, h in (box_of(0, 7), box_of(1, 7))]
    np.testing.assert_allclose(boxes, expected, atol=0.01)
    np.testing.assert_allclose(sure, [16 * 28 / 500] * 2, rtol=1e-5)


def test_frames_are_scaled_to_the_detectors_input(detector: Path) -> None:
    large = draw(7).repeat(3, axis=0).repeat(2, axis=1)
    boxes, _ = open_detector(detector).detect(large, least=0.5)
    x, y, w, h = box_of(0, 7)
    np.testing.assert_allclose(boxes[0], [2 * x, 3 * y, 2 * (x + w), 3 * (y + h)], atol=3)


def test_who_is_not_sure_enough_is_no_person(detector: Path) -> None:
    boxes, _ = open_detector(detector).detect(draw(7), least=0.95)
    assert boxes.shape == (0, 4)


def test_openvino_reads_the_same(detector: Path) -> None:
    try:
        openvino = import_openvino()
    except MissingExtra:
        pytest.skip("OpenVINO is not installed (the extra openvino)")
    ir = detector.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(detector), ir, compress_to_fp16=False)
    one = open_detector(detector).detect(draw(7), least=0.5)
    two = open_detector(ir).detect(draw(7), least=0.5)
    np.testing.assert_allclose(two[0], one[0], atol=0.01)
    np.testing.assert_allclose(two[1], one[1], rtol=1e-5)


def test_models_that_are_no_detectors(tmp_path: Path, detector: Path) -> None:
    with pytest.raises(BadWeights, match=r"an \.xml file of OpenVINO, or an \.onnx file"):
        open_detector(tmp_path / "model.pth")
    with pytest.raises(BadWeights, match="there is no such file"):
        open_detector(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BadWeights, match="not a model that onnxruntime can run"):
        open_detector(tmp_path / "model.onnx")
    with pytest.raises(BadWeights, match=r"its output is \(1, 1, 5, 6\); a detector whose rows"):
        open_detector(colour_detector(tmp_path / "six.onnx", columns=6)).detect(draw(0), least=0)
    model = onnx.load(str(detector))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, str(tmp_path / "free.onnx"))
    with pytest.raises(BadWeights, match="of fixed height and width"):
        open_detector(tmp_path / "free.onnx")


def test_tracks_of_a_raw_video(tmp_path: Path, detector: Path) -> None:
    video = write_video(tmp_path / "cam4.mp4")
    done = write_tracks([video], detector=detector, out=tmp_path / "t.csv")
    lines = list(csv.reader((tmp_path / "t.csv").read_text().splitlines()))
    assert tuple(lines[0]) == COLUMNS
    assert {tuple(line[:2]) for line in lines[1:]} == {("cam4.mp4", "4")}
    assert (done.videos, done.tracks, done.boxes) == (1, 2, len(lines) - 1)
    boxes = read_tracks(tmp_path / "t.csv", videos=["cam4.mp4"], root=tmp_path).boxes["cam4.mp4"]
    assert boxes.frame.max() == 29
    figures: dict[str | None, set[int]] = {}
    for frame, box, track in zip(boxes.frame.tolist(), boxes.box, boxes.track, strict=True):
        off = [np.abs(box - box_of(figure, frame)).max() for figure in (0, 1)]
        assert min(off) < 2.5
        figures.setdefault(track, set()).add(int(np.argmin(off)))
    assert sorted(figures) == ["1", "2"]
    assert sorted(map(sorted, figures.values())) == [[0], [1]]
    source = find_videos([video], tracks=tmp_path / "t.csv", whole=False, videos=None)
    assert source.count == done.boxes
    assert {person.columns["camera"] for one in source.pictures() for person in one.people} == {4}


def test_frames_that_are_not_looked_at_and_tracks_that_are_too_short(
    tmp_path: Path, detector: Path
) -> None:
    video = write_video(tmp_path / "v.mp4")
    write_tracks([video], detector=detector, out=tmp_path / "t.csv", every=3)
    boxes = read_tracks(tmp_path / "t.csv", videos=["v.mp4"], root=tmp_path).boxes["v.mp4"]
    assert set((boxes.frame % 3).tolist()) == {0}
    none = write_tracks([video], detector=detector, out=tmp_path / "t.csv", every=3, least=11)
    assert (none.tracks, none.boxes) == (0, 0)
    assert (tmp_path / "t.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_whoever_is_gone_for_long_is_a_new_track(tmp_path: Path, detector: Path) -> None:
    """By seconds, not frames: the gap is one frame, and 5 seconds."""
    times = [number / 10 + (5 if number >= 15 else 0) for number in range(30)]
    video = write_video(tmp_path / "v.mp4", times=times)
    assert write_tracks([video], detector=detector, out=tmp_path / "t.csv").tracks == 4


def test_a_bad_video_is_told_and_left_out(tmp_path: Path, detector: Path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "b.mp4")
    (tmp_path / "in" / "a.mp4").write_bytes(b"no video")
    told: list[str] = []
    done = write_tracks(
        [tmp_path / "in"],
        detector=detector,
        out=tmp_path / "t.csv",
        tell=lambda fault: told.append(str(fault)),
    )
    assert (done.videos, done.tracks, len(told)) == (1, 2, 1)
    assert "a.mp4: not a video" in told[0]
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(UnreadableVideo, match=r"a\.mp4: not a video"):
        write_tracks([tmp_path / "in"], detector=detector, out=tmp_path / "t.csv", strict=True)
    with pytest.raises(NothingToIndex, match="not one of 1 videos"):
        write_tracks([tmp_path / "in" / "a.mp4"], detector=detector, out=tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.onnx", "in", "t.csv"]


def test_nothing_is_sent_anywhere(tmp_path: Path, detector: Path) -> None:
    """Not by what is imported, and not by tracking: a fresh process that any address ends."""
    video = write_video(tmp_path / "v.mp4", frames=10)
    code = (
        "import os, sys\n"
        "sending = {'socket.connect', 'socket.sendto', 'socket.getaddrinfo', 'socket.sendmsg'}\n"
        "sys.addaudithook(lambda event, _: event in sending and os._exit(9))\n"
        "from pathlib import Path\n"
        "from extractors.video.track import write_tracks\n"
        f"write_tracks([Path({str(video)!r})], detector=Path({str(detector)!r}),\n"
        f"             out=Path({str(tmp_path / 't.csv')!r}))\n"
    )
    done = subprocess.run([*REID[:2], code], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    socket = "import socket; socket.create_connection(('127.0.0.1', 1))"
    ended = subprocess.run([*REID[:2], code + socket], env=ENVIRONMENT, capture_output=True)
    assert ended.returncode == 9


def test_the_command(tmp_path: Path, detector: Path) -> None:
    write_video(tmp_path / "v.mp4")
    (tmp_path / "list.csv").write_text("video,camera\nv,6\n")
    out = tmp_path / "t.csv"
    words = ["track", tmp_path / "v.mp4", "--detector", detector, "--out", out]
    done = succeed(*words, "--videos", tmp_path / "list.csv")
    assert f"{out}: 2 tracks in 1 video, " in done.stderr
    assert out.read_text().splitlines()[1].startswith("v.mp4,6,1,1,")


def test_the_command_refuses(tmp_path: Path, detector: Path) -> None:
    write_video(tmp_path / "v.mp4", frames=1)
    words = ["track", tmp_path / "v.mp4", "--detector", detector, "--out"]
    wrong = run(*words, tmp_path / "t.parquet")
    assert_refused(wrong, code=2, text="a .csv file, please")
    nowhere = run(*words, tmp_path / "no" / "t.csv")
    assert_refused(nowhere, code=2, text="name a file in a folder that is there")


@pytest.mark.skipif(not VIDEO.exists(), reason="the research data are not at ../shared")
def test_the_people_of_the_real_video(tmp_path: Path) -> None:
    """At least 5 of the 6 people whom the checked list has come out, each as one track."""
    try:
        import_openvino()
    except MissingExtra:
        pytest.skip("OpenVINO is not installed (the extra openvino)")
    out = tmp_path / "t.csv"
    write_tracks([VIDEO], detector=DETECTOR, out=out, every=4)
    names = [VIDEO.name]
    found = read_tracks(out, videos=names, root=tmp_path).boxes[VIDEO.name]
    right = read_tracks(VIDEO.with_suffix(".tracks.csv"), videos=names, root=tmp_path).boxes[
        VIDEO.name
    ]
    places = dict(found.frames())
    pairs: dict[str | None, list[str | None]] = {}
    for frame, expected in right.frames():
        for one in expected:
            for other in places.get(frame, ()):
                if _overlap(right.box[one], found.box[other]) > 0.5:
                    pairs.setdefault(right.track[one], []).append(found.track[other])
    whole = [person for person, tracks in pairs.items() if len(set(tracks)) == 1]
    assert len(set(right.track)) == 6
    assert len(whole) >= 5
    assert len({pairs[person][0] for person in whole}) == len(whole)


def _overlap(a: Any, b: Any) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return float(both / (a[2] * a[3] + b[2] * b[3] - both))

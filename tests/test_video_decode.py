"""Decoding videos: numbers, times, rotation, and files with something amiss."""

import gc
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from video_world import HEIGHT, WIDTH, draw, write_video

from extractors.video.decode import Frame, probe_video, read_frames, read_frames_at
from reid_index.errors import UnreadableVideo

ROOT = Path(__file__).parents[1]


def decoded(path: Path) -> tuple[list[Frame], list[str]]:
    faults: list[str] = []
    frames = list(read_frames(path, tell=lambda fault: faults.append(str(fault))))
    return frames, faults


def differ(image: np.ndarray, drawn: np.ndarray) -> float:
    assert image.shape == drawn.shape
    return float(np.abs(image.astype(int) - drawn).mean())


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi", "v.ts"])
def test_frames_are_numbered_timed_and_as_drawn(tmp_path: Path, name: str) -> None:
    frames, faults = decoded(write_video(tmp_path / name))
    assert not faults
    assert [frame.number for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(30) / 10, atol=1e-3)
    for frame in frames:
        assert frame.image().dtype == np.uint8
        assert differ(frame.image(), draw(frame.number)) < 4


def test_times_are_the_files_own(tmp_path: Path) -> None:
    times = [0, 0.1, 0.15, 0.4, 1.0, 1.01, 2.5]
    frames, faults = decoded(write_video(tmp_path / "v.mp4", frames=7, times=times))
    assert not faults
    np.testing.assert_allclose([frame.seconds for frame in frames], times, atol=1e-4)


def test_times_are_counted_from_where_the_stream_begins(tmp_path: Path) -> None:
    """MPEG-TS begins at 1.4 s, and cut streams anywhere."""
    times = [7 + number / 10 for number in range(10)]
    frames, faults = decoded(write_video(tmp_path / "v.mkv", frames=10, times=times))
    assert not faults
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(10) / 10, atol=1e-3)


@pytest.mark.parametrize(
    ("rotation", "quarters", "sideways"), [(-90, 3, True), (90, 1, True), (180, 2, False)]
)
def test_rotated_video_is_upright(
    tmp_path: Path, rotation: float, quarters: int, sideways: bool
) -> None:
    """Rotation as cameras note it: av_display_rotation_set counts against the clock."""
    path = write_video(tmp_path / "v.mp4", frames=3, rotation=rotation)
    video = probe_video(path)
    size = (HEIGHT, WIDTH) if sideways else (WIDTH, HEIGHT)
    assert (video.width, video.height) == size
    frames, _ = decoded(path)
    image = frames[2].image()
    assert image.flags.c_contiguous
    assert differ(image, np.rot90(draw(2), quarters)) < 3


def test_mirrored_video(tmp_path: Path) -> None:
    """The matrix of a mirror, (x, y) → (−x, y), put into the file's own header."""
    path = write_video(tmp_path / "v.mp4", frames=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert data[at : at + 4] == b"\0\1\0\0"
    data[at : at + 4] = (-65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    frames, _ = decoded(path)
    assert differ(frames[1].image(), draw(1)[:, ::-1]) < 3


def test_what_a_video_says_of_itself(tmp_path: Path) -> None:
    made = {"creation_time": "2024-05-01T12:00:00.000000Z"}
    video = probe_video(write_video(tmp_path / "v.mp4", metadata=made))
    assert (video.width, video.height, video.frames) == (WIDTH, HEIGHT, 30)
    assert video.seconds == pytest.approx(3, abs=0.01)
    assert video.rate == pytest.approx(10, abs=0.1)
    assert video.made == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert probe_video(write_video(tmp_path / "w.mp4")).made is None


def test_a_clock_that_was_never_set_is_no_time(tmp_path: Path) -> None:
    made = {"creation_time": "1970-01-01T00:00:07.000000Z"}
    assert probe_video(write_video(tmp_path / "v.mp4", metadata=made)).made is None


def test_frames_are_let_go_of_at_once(tmp_path: Path) -> None:
    """Nothing of them is left for the garbage collector, which would come when memory is full."""
    path = write_video(tmp_path / "v.mp4", frames=200, key_every=50)
    gc.collect()
    gc.disable()
    try:
        for frame in read_frames(path):
            frame.image()
        assert gc.collect() < 50
    finally:
        gc.enable()


# Something amiss


def refused(path: Path, match: str) -> None:
    for read in (probe_video, lambda path: list(read_frames(path))):
        with pytest.raises(UnreadableVideo, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "v.mp4", "there is no such file")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.mp4")
    refused(tmp_path / "v.mp4", "not a file")


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"hello", b"\x89PNG\r\n\x1a\n" + b"1" * 99])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    refused(tmp_path / "v.mp4", "not a video that can be read")


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    """FFmpeg would take these for playlists, whatever they are called, and open what they name."""
    write_video(tmp_path / "other.ts")
    path = tmp_path / "v.mp4"
    path.write_text("ffconcat version 1.0\nfile other.ts\n")
    refused(path, "not a video that can be read")
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nother.ts\n#EXT-X-ENDLIST\n")
    refused(path, "not a video that can be read")


def test_sound_alone(tmp_path: Path) -> None:
    import av

    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused(path, "there is no video stream")


def test_a_codec_that_is_not_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    refused(path, "its codec cannot be decoded")


def test_a_video_without_frames(tmp_path: Path) -> None:
    """An AVI whose headers are whole and whose frames are none of the codec's."""
    path = write_video(tmp_path / "v.avi", frames=3)
    data = path.read_bytes()
    begin, end = data.index(b"movi") + 4, data.index(b"idx1")
    path.write_bytes(data[:begin] + data[end:])
    refused(path, "not one frame can be decoded")


def test_an_mp4_that_is_cut_off_before_its_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes()[:-1500])
    refused(path, "cut off before its index")


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_what_can_be_decoded_of_a_cut_file_is_used_and_told(tmp_path: Path, name: str) -> None:
    faststart = {"movflags": "faststart"} if name == "v.mp4" else {}
    path = write_video(tmp_path / name, frames=60, container_options=faststart)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    frames, faults = decoded(path)
    assert 5 < len(frames) < 55
    assert differ(frames[4].image(), draw(4)) < 3
    [fault] = faults
    assert f"cut off or damaged: {len(frames)} frames could be decoded" in fault
    assert "of 6.00 s" in fault


def test_damage_in_the_middle_is_told_and_the_rest_is_used(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=60, container_options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 600] = b"\xff" * 600
    path.write_bytes(data)
    frames, faults = decoded(path)
    assert len(frames) > 40
    assert frames[-1].seconds == pytest.approx(5.9, abs=1e-3)
    assert len(faults) == 1
    assert "cut off or damaged" in faults[0]


def test_frames_out_of_order_are_told(tmp_path: Path) -> None:
    """Two recordings put one behind the other, as recorders do: times begin anew in the middle."""
    write_video(tmp_path / "a.ts", frames=10)
    both = (tmp_path / "a.ts").read_bytes() * 2
    (tmp_path / "b.ts").write_bytes(both)
    frames, faults = decoded(tmp_path / "b.ts")
    seconds = [frame.seconds for frame in frames]
    assert len(frames) >= 19
    assert (np.diff(seconds) > 0).all()
    assert any("out of order, frame 10 first" in fault for fault in faults)


def test_a_link_that_leads_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "v.mp4")
    (tmp_path / "in" / "v.mp4").symlink_to(tmp_path / "v.mp4")
    with pytest.raises(UnreadableVideo, match="outside"):
        probe_video(tmp_path / "in" / "v.mp4", root=tmp_path / "in")


# Some frames alone


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi", "v.ts"])
@pytest.mark.parametrize("numbers", [[0], [59], [3, 4, 5], [50, 2, 31, 2, 58]])
def test_some_frames_alone(tmp_path: Path, name: str, numbers: list[int]) -> None:
    path = write_video(tmp_path / name, frames=60)
    frames, _ = decoded(path)
    images = read_frames_at(path, [(number, frames[number].seconds) for number in numbers])
    for number, image in zip(numbers, images, strict=True):
        assert image is not None
        np.testing.assert_array_equal(image, frames[number].image())


def test_times_of_some_frames_may_be_rounded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=30, rate=30)
    frames, _ = decoded(path)
    images = read_frames_at(path, [(7, round(frames[7].seconds, 3))])
    np.testing.assert_array_equal(images[0], frames[7].image())


def test_frames_that_are_not_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=10)
    found = read_frames_at(path, [(3, 0.3), (10, 1.0), (99, 9.9)])
    assert found[0] is not None
    assert found[1:] == [None, None]


def test_frames_whose_times_do_not_find_them_are_counted(tmp_path: Path) -> None:
    """A stream without an index, and without times: raw H.264."""
    import av

    write_video(tmp_path / "v.mp4", frames=20, options={"bf": "0"})
    path = tmp_path / "v.h264"
    with av.open(str(tmp_path / "v.mp4")) as source, av.open(str(path), "w", "h264") as raw:
        stream = raw.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                raw.mux(packet)
    frames, _ = decoded(path)
    assert len(frames) == 20
    assert (np.diff([frame.seconds for frame in frames]) > 0).all()
    [image] = read_frames_at(path, [(13, frames[13].seconds)])
    np.testing.assert_array_equal(image, frames[13].image())


def test_without_pyav_it_says_what_to_install(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=1)
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from pathlib import Path\n"
        "from extractors.video.decode import probe_video\n"
        f"probe_video(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "MissingExtra: PyAV is not installed: pip install 'reid-index[video]'" in done.stderr

"""Video files frame by frame through PyAV: numbered, timed, upright, and honest about damage.

Frames are decoded in order, one at a time; only those whose image is asked for become RGB.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import MissingExtra, UnreadableImage, UnreadableVideo

from ..extractor import Crop
from ..images import MAX_PIXELS, inside

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_CONTAINERS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf"),
    *("h264", "hevc", "m4v", "mjpeg", "ivf", "obu", "dav", "dhav"),
)
"""Formats that FFmpeg may take a file for. Playlists are none of them: a few bytes that are called
.mp4 would have it read other files, or the network."""

_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS)}

_NEAR = 2.0
"""Seconds ahead that are decoded rather than jumped over: key frames are about as far apart."""

_SAME = 5e-4
"""Seconds by which times of one frame may differ, as they are written in a text."""

_SHORT = 2.5
"""Frames by which the last one may lie before the end that the file claims."""

_EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
"""Cameras without a clock begin in 1904 or 1970, which is no time that a video was made."""


@dataclass(frozen=True)
class Video:
    """What is known of a video before it is decoded.

    width, height: in pixels, upright. seconds: how long it claims to be, frames: how many it claims
    to have, rate: frames a second on the average; None where the file does not say. made: its
    creation time, which many programs set to when they wrote the file.
    """

    path: Path
    width: int
    height: int
    seconds: float | None
    frames: int | None
    rate: float | None
    made: datetime | None


class Frame:
    """A decoded frame. number: from 0, in the order of decoding. seconds: since the video began."""

    __slots__ = ("_decoded", "_matrix", "number", "seconds")

    def __init__(
        self,
        number: int,
        seconds: float,
        decoded: "VideoFrame",
        matrix: NDArray[np.int32] | None,
    ) -> None:
        self.number = number
        self.seconds = seconds
        self._decoded = decoded
        self._matrix = matrix

    def image(self) -> Crop:
        """uint8 (height, width, 3) RGB, upright, in the colours that FFmpeg gives it. Pixels that
        are not square stay as they are. May be called in another thread."""
        rgb: NDArray[np.uint8] = self._decoded.to_ndarray(format="rgb24")  # type: ignore[assignment]
        return np.ascontiguousarray(_turned(rgb, self._matrix))


def probe_video(path: Path, *, root: Path | None = None) -> Video:
    """What a video file says of itself; its first frame is decoded to be sure.

    root: a folder that the file has to be in when all links are followed. Raises UnreadableVideo
    for a file that is not there, no video, without a video stream or a frame, cut off before its
    index, outside root, or of a codec that cannot be decoded; MissingExtra without PyAV.
    """
    with _opened(path, root=root) as (container, stream):
        first = next(_decoded(container, stream, _Damage()), None)
        if first is None:
            raise UnreadableVideo(f"{path}: not one frame can be decoded; it is empty or damaged")
        width, height = first.width, first.height
        matrix = _Matrices().of(first)
        if matrix is not None and _is_sideways(matrix):
            width, height = height, width
        rate = stream.average_rate or stream.guessed_rate
        return Video(
            path=path,
            width=width,
            height=height,
            seconds=_claimed_seconds(container, stream),
            frames=stream.frames or None,
            rate=float(rate) if rate else None,
            made=_made(container.metadata) or _made(stream.metadata),
        )


def read_frames(
    path: Path, *, tell: Callable[[UnreadableVideo], None] = lambda _fault: None
) -> Generator[Frame, None, None]:
    """Every frame that can be decoded, in order; a few are held at a time.

    seconds are the file's own presentation times, counted from where its stream begins. A frame
    whose time is missing or not after its predecessor's comes 1 / rate after that.
    tell: told at the end what was amiss: damage, an end before the claimed one, times that do not
    rise; and, where it is closed before the end, of damage up to there. Raises UnreadableVideo as
    `probe_video`, and at the end where there was no frame at all.
    """
    with _opened(path) as (container, stream):
        damage, matrices = _Damage(), _Matrices()
        step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        base = stream.time_base or 1
        begin = stream.start_time or 0
        number, last = 0, -step
        backwards = first = 0
        ends = ""
        try:
            for decoded in _decoded(container, stream, damage):
                pts = decoded.pts
                seconds = last + step
                if pts is not None:
                    seconds = (pts - begin) * base.numerator / base.denominator
                if number and seconds <= last:
                    backwards += 1
                    first = number if backwards == 1 else first
                    seconds = last + step
                last = seconds
                yield Frame(number, seconds, decoded, matrices.of(decoded))
                number += 1
            if not number:
                raise UnreadableVideo(
                    f"{path}: not one frame can be decoded; it is empty or damaged"
                )
            claimed = _claimed_seconds(container, stream)
            if claimed is not None and claimed - (last + step) > _SHORT * step:
                ends = f", and end at {last + step:.2f} s of {claimed:.2f} s"
        except GeneratorExit:
            number += 1  # the frame that was the last to be asked for
            raise
        finally:
            if backwards:
                tell(
                    UnreadableVideo(
                        f"{path}: {backwards:,} of {number:,} frames are out of order, frame "
                        f"{first} first: they are timed no later than the one before; each follows "
                        "it at the average rate"
                    )
                )
            if number and (damage.places or ends):
                tell(UnreadableVideo(_of_damage(path, number, damage.places, ends)))


def _of_damage(path: Path, frames: int, places: int, ends: str) -> str:
    line = f"{path}: cut off or damaged: {frames:,} frames could be decoded"
    if not places:
        return f"{line}{ends}; they are used"
    where = "1 place" if places == 1 else f"{places:,} places"
    return (
        f"{line}, with damage in {where}{ends}; they are used, numbered as they come, so boxes "
        "behind the damage may be of other frames"
    )


def read_frames_at(path: Path, wanted: Sequence[tuple[int, float]]) -> list[Crop | None]:
    """The images of some frames of one file, None for each that is not there.

    wanted: numbers and seconds as `read_frames` gives them, in any order. The file is opened once
    and jumped to the seconds; frames that these do not find are counted up to. Raises
    UnreadableVideo as `probe_video`.
    """
    found = _by_seconds(path, wanted)
    missing = {number for number, _ in wanted} - found.keys()
    if missing:
        for frame in read_frames(path):
            if frame.number in missing:
                found[frame.number] = frame.image()
            if frame.number >= max(missing):
                break
    return [found.get(number) for number, _ in wanted]


def _by_seconds(path: Path, wanted: Sequence[tuple[int, float]]) -> dict[int, Crop]:
    import av

    found: dict[int, Crop] = {}
    with _opened(path) as (container, stream):
        base = stream.time_base
        if base is None:
            return found
        begin, matrices = stream.start_time or 0, _Matrices()
        frames: Iterator[VideoFrame] = iter(())
        frame: VideoFrame | None = None
        at = -np.inf
        for number, seconds in sorted(set(wanted), key=lambda one: one[1]):
            if not at <= seconds <= at + _NEAR:
                try:
                    container.seek(begin + round(seconds / base), stream=stream)
                except av.FFmpegError:  # a stream without any index
                    return found
                frames, frame = _decoded(container, stream, _Damage()), None
            while frame is None or at < seconds - _SAME:
                frame = next(frames, None)
                if frame is None:
                    at = np.inf
                    break
                if frame.pts is not None:
                    at = float((frame.pts - begin) * base)
            if frame is not None and abs(at - seconds) <= _SAME:
                found[number] = Frame(number, seconds, frame, matrices.of(frame)).image()
    return found


class _Damage:
    """How often decoding met something that it could not make sense of."""

    def __init__(self) -> None:
        self.places = 0


@contextmanager
def _opened(
    path: Path, *, root: Path | None = None
) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    av = _import_av()
    try:
        file = path if root is None else inside(path, root)
        if not file.exists():
            raise UnreadableVideo(f"{path}: there is no such file")
        if not file.is_file():
            raise UnreadableVideo(f"{path}: not a file")
        container = av.open(str(file), options=_OPTIONS, metadata_errors="replace")
    except UnreadableImage as error:
        raise UnreadableVideo(str(error)) from None
    except OSError as error:
        raise UnreadableVideo(f"{path}: cannot be opened: {error.strerror}") from None
    except (av.FFmpegError, ValueError):  # of a NUL in the name, too
        raise UnreadableVideo(
            f"{path}: not a video that can be read, or cut off before its index"
        ) from None
    with container:
        yield container, _video_stream(container, path)


def _video_stream(container: "InputContainer", path: Path) -> "VideoStream":
    from av.stream import Disposition

    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise UnreadableVideo(f"{path}: there is no video stream in it")
    stream = streams[0]
    if stream.codec_context is None:
        raise UnreadableVideo(
            f"{path}: its codec cannot be decoded here; convert it to H.264, for example"
        )
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise UnreadableVideo(
            f"{path}: frames of {width} × {height} pixels, over the limit of {MAX_PIXELS:,}; make "
            "them smaller"
        )
    stream.thread_type = "AUTO"
    return stream


def _decoded(
    container: "InputContainer", stream: "VideoStream", damage: _Damage
) -> Iterator["VideoFrame"]:
    """Frames as they come out of the decoder; what cannot be decoded is counted."""
    import av

    packets = container.demux(stream)
    ended = False
    while not ended:
        packet: Packet[VideoStream] | None = None
        try:
            packet = next(packets)
            ended = packet.size == 0  # with which the decoder gives what it holds back
        except StopIteration:
            return
        except (av.FFmpegError, OSError):
            damage.places += 1
            ended = True
        if packet is not None and packet.is_corrupt:
            damage.places += 1
        try:
            yield from stream.decode(packet)
        except av.error.EOFError:
            return
        except (av.FFmpegError, OSError):
            damage.places += 1


def _claimed_seconds(container: "InputContainer", stream: "VideoStream") -> float | None:
    """How long the stream is by its own header, else by the container's."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # Others count from 0, wherever the stream begins.
    begin = float((stream.start_time or 0) * (stream.time_base or 0))
    tag = stream.metadata.get("DURATION", "")  # Matroska's: 00:00:10.000000000
    with suppress(ValueError):
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
        return 3600 * hours + 60 * minutes + seconds - begin
    # Of several streams another one may be longer.
    if container.duration is None or len(container.streams) > 1:
        return None
    return container.duration / 1_000_000 - begin


def _made(metadata: dict[str, str]) -> datetime | None:
    try:
        made = datetime.fromisoformat(metadata["creation_time"])
    except (KeyError, ValueError):
        return None
    made = made.replace(tzinfo=made.tzinfo or UTC).astimezone(UTC)
    return made if made >= _EARLIEST else None


class _Matrices:
    """The display matrices of a stream's frames, which mostly are one.

    It is looked at again only where its angle is another. PyAV's side data hold their frame, which
    holds them, so that every frame that is asked for them stays until a garbage collection.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix: NDArray[np.int32] | None = None

    def of(self, frame: "VideoFrame") -> NDArray[np.int32] | None:
        """(2, 2), None where the frame has none."""
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _read_matrix(frame)
        return self._matrix


def _read_matrix(frame: "VideoFrame") -> NDArray[np.int32] | None:
    """(2, 2): [[a, b], [c, d]] of the display matrix, which takes (x, y) to (ax + cy, bx + dy):
    ISO 14496-12, 6.2.2. None where the frame has none."""
    side_data: Any = frame.side_data
    if "DISPLAYMATRIX" not in side_data:
        return None
    data = bytes(side_data["DISPLAYMATRIX"])
    return np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2]


def _is_sideways(matrix: NDArray[np.int32]) -> bool:
    return bool(abs(int(matrix[0, 1])) > abs(int(matrix[0, 0])))


def _turned(image: NDArray[np.uint8], matrix: NDArray[np.int32] | None) -> NDArray[np.uint8]:
    """The image as it is to be shown: turned by quarters, and mirrored."""
    if matrix is None:
        return image
    (a, b), (c, d) = matrix
    if _is_sideways(matrix):
        image = image.swapaxes(0, 1)
        across, down = c, b
    else:
        across, down = a, d
    return image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtra("PyAV is not installed: pip install 'reid-index[video]'") from None
    return av

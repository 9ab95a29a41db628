"""Images out of a video (extra `video`: PyAV), some a second."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ImageError, MissingExtraError
from wordsight.image import MAX_PIXELS

if TYPE_CHECKING:
    import av

FRAME_MARK = "#t="
"""Between the path of a video and the seconds of its frame (W3C Media Fragments, section 4.2.1)."""

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"}
)

ReadFrame = Callable[[], NDArray[np.uint8]]
_MOST_MISSING_S = 1.0  # the length that a file states may be that of its sound
_USUAL_FRAMES_PER_S = 25


def frames_of(path: Path, frames_per_s: float) -> Iterator[tuple[float, ReadFrame]]:
    """Frames in the order of their time: of each 1/`frames_per_s` seconds the first.

    The video is decoded from its begin to its end as the frames are asked for; what is held is one frame, and what the
    caller holds.

    Returns:
        Seconds after the first frame; and what gives the frame, upright, (H, W, 3) uint8.

    Raises:
        ImageError: PyAV is not installed, it is no video, or it breaks off: then after the frames that there are.
    """
    try:
        import av
    except ImportError as error:
        raise ImageError(f"{path}: {MissingExtraError('a video', 'video')}") from error
    end_s, last_s = 0.0, 0.0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise ImageError(f"{path}: no moving images in it; name a video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ImageError(f"{path}: its images are coded in a way that is not known here; convert it")
            _check_size(stream.width, stream.height, path)
            stream.thread_type = "AUTO"
            end_s = _stated_end_s(container, stream)
            wanted = 0
            for frame, last_s in _timed(container, stream):
                if last_s * frames_per_s >= wanted - 1e-6:
                    wanted = int(last_s * frames_per_s + 1e-6) + 1
                    yield last_s, _reader(frame, path)
    except (av.FFmpegError, OSError, ValueError, LookupError) as error:
        reason = " ".join(str(getattr(error, "strerror", "") or error).split())
        raise ImageError(f"{path}: cannot be read as a video beyond {last_s:.3f} s: {reason}") from error
    if end_s - last_s > _MOST_MISSING_S:
        raise ImageError(f"{path}: breaks off at {last_s:.3f} of {end_s:.3f} s; fetch it again")


def _timed(
    container: "av.container.InputContainer", stream: "av.video.stream.VideoStream"
) -> Iterator[tuple["av.VideoFrame", float]]:
    begin_s: float | None = None
    per_s = float(stream.average_rate or _USUAL_FRAMES_PER_S)
    for number, frame in enumerate(container.decode(stream)):
        time_s = number / per_s if frame.time is None else frame.time
        begin_s = time_s if begin_s is None else begin_s
        yield frame, time_s - begin_s


def _stated_end_s(container: "av.container.InputContainer", stream: "av.video.stream.VideoStream") -> float:
    """When the last frame ends, by what the file says; 0 where it does not say it of the images themselves."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1e6
    return 0.0


def _reader(frame: "av.VideoFrame", path: Path) -> ReadFrame:
    def read() -> NDArray[np.uint8]:
        _check_size(frame.width, frame.height, path)
        try:
            image = frame.to_ndarray(format="rgb24")
        except (OSError, ValueError) as error:  # samples of a form that cannot become colours
            raise ImageError(f"{path}: a frame cannot be read: {error}") from error
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))  # as the file says, counter-clockwise

    return read


def _check_size(width: int, height: int, path: Path) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{path}: frames of {width} x {height} pixels; expected 1 to {MAX_PIXELS}")

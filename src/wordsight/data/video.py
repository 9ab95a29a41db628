"""Frames of a video as images, a few per second (extra `video`: PyAV).

FFmpeg reads many more formats than videos: playlists that name other files or web addresses, and devices. Only
containers of videos are opened, and only as local files.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.data.mp4 import check_claims
from wordsight.errors import ImageError, MissingExtraError, printable
from wordsight.image import BUDGET

if TYPE_CHECKING:
    import av

MAX_PIXELS = 1 << 25
"""Pixels of a frame: 8192 x 4096. A decoder keeps up to 17 frames for reference, and one per thread."""

MAX_DECODING_S = 60.0
"""Time in which a frame must be decoded for each second of video; slow CPUs decode 8K in about a third of this."""

FRAME_MARK = "#t="
"""Separates the path of a video from the time of a frame in seconds (W3C Media Fragments, section 4.2.1)."""

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"}
)

ReadFrame = Callable[[], NDArray[np.uint8]]
_MAX_MISSING_S = 1.0  # the stated duration may be that of the audio, which can be slightly longer
_DEFAULT_FRAMES_PER_S = 25
_OPENING_TIMEOUT_S, _READING_TIMEOUT_S = 20.0, 20.0
_FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg"
_FRAME_BYTES = 12  # peak of the conversion of a frame to RGB and its rotation, in bytes per pixel


def is_video(path: Path) -> bool:
    """Return whether a path has the suffix of a video and is a regular file, or missing."""
    return path.suffix.lower() in VIDEO_SUFFIXES and (os.path.isfile(path) or not os.path.exists(path))  # noqa: PTH110, PTH113 pathlib raises errors for some names


def read_frames(path: Path, frames_per_s: float) -> Iterator[tuple[float, ReadFrame]]:
    """Yield the first frame of each interval of 1/`frames_per_s` seconds, in chronological order.

    The video is decoded once, from start to end, while the frames are consumed. Only one frame is held in memory,
    besides those that the caller keeps.

    Yields:
        Pairs of the time since the first frame in seconds, and a function that returns the frame upright as
        (H, W, 3) uint8.

    Raises:
        ImageError: PyAV is not installed, the file is not a video, exceeds a limit, or is truncated; a truncated video
            raises after the frames that could be decoded.
    """
    try:
        import av
    except ImportError as error:
        raise ImageError(f"{printable(path)}: {MissingExtraError('a video', 'video')}") from error
    end_s, last_s, next_frame = 0.0, 0.0, 0
    timeouts, options = (_OPENING_TIMEOUT_S, _READING_TIMEOUT_S), {"format_whitelist": _FORMATS}
    try:
        check_claims(path)
        with av.open(f"file:{path}", options=options, timeout=timeouts, metadata_errors="replace") as container:
            if not container.streams.video:
                raise ImageError(f"{printable(path)}: no video stream; expected a video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ImageError(
                    f"{printable(path)}: the codec of its video stream is not supported; convert the video"
                )
            _check_size(stream.width, stream.height, path)
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            end_s = _stated_end_s(container, stream)
            max_wait_s = MAX_DECODING_S * max(1, 1 / frames_per_s)
            begin_s = time.monotonic()
            for frame, last_s in _timed_frames(container, stream):
                if last_s * frames_per_s >= next_frame - 1e-6:
                    next_frame = int(last_s * frames_per_s + 1e-6) + 1
                    yield last_s, _frame_reader(frame, path)
                    begin_s = time.monotonic()
                elif time.monotonic() - begin_s > max_wait_s:
                    raise ImageError(
                        f"{printable(path)}: decoding takes longer than {max_wait_s:.0f} s per frame; convert it"
                    )
    except (av.FFmpegError, OSError, ValueError, LookupError) as error:
        reason = " ".join(str(getattr(error, "strerror", "") or error).split())
        raise ImageError(f"{printable(path)}: cannot be decoded as a video after {last_s:.3f} s: {reason}") from error
    if not next_frame:
        raise ImageError(f"{printable(path)}: contains no frames; fetch or save it again")
    if end_s - last_s > _MAX_MISSING_S:
        raise ImageError(f"{printable(path)}: truncated: ends at {last_s:.3f} of {end_s:.3f} s; fetch it again")


def _timed_frames(
    container: "av.container.InputContainer", stream: "av.video.stream.VideoStream"
) -> Iterator[tuple["av.VideoFrame", float]]:
    """Yield frames and their times in seconds since the first frame."""
    begin_s: float | None = None
    per_s = float(stream.average_rate or _DEFAULT_FRAMES_PER_S)
    for number, frame in enumerate(container.decode(stream)):
        time_s = number / per_s if frame.time is None else frame.time
        begin_s = time_s if begin_s is None else begin_s
        yield frame, time_s - begin_s


def _stated_end_s(container: "av.container.InputContainer", stream: "av.video.stream.VideoStream") -> float:
    """Return the end of the last frame in seconds; 0 if the file does not state it for the video stream."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1e6
    return 0.0


def _frame_reader(frame: "av.VideoFrame", path: Path) -> ReadFrame:
    def read() -> NDArray[np.uint8]:
        _check_size(frame.width, frame.height, path)
        with BUDGET.reserve(frame.width * frame.height * _FRAME_BYTES, printable(path)):
            try:
                pixels = frame.to_ndarray(format="rgb24")
            except (OSError, ValueError) as error:  # a pixel format that has no conversion to RGB
                raise ImageError(f"{printable(path)}: a frame cannot be converted to RGB: {error}") from error
            # the stated angle, counter-clockwise
            return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))

    return read


def _check_size(width: int, height: int, path: Path) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{printable(path)}: frames of {width} x {height} pixels; expected 1 to {MAX_PIXELS} pixels")

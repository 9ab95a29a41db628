"""Videos of known colours: the times and the orientation of frames, and truncated files."""

import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.tiny_clip import tiny_clip, write_images

from wordsight.data.inputs import count_images, iter_images
from wordsight.data.video import read_frames
from wordsight.embed.job import embed_files
from wordsight.errors import DataError, ImageError

av = pytest.importorskip("av", reason="needs PyAV, extra video")

WIDTH, HEIGHT = 64, 48


def grey(number: int) -> int:
    return 6 * (number % 36) + 20


def image(number: int) -> np.ndarray:
    """(H, W, 3): the frame's number as grey in the upper left quarter, fixed colours elsewhere."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:24, :32] = grey(number)
    image[:24, 32:] = (200, 30, 30)
    image[24:, :32] = (30, 200, 30)
    image[24:, 32:] = (30, 30, 200)
    return image


def centres(image: np.ndarray) -> np.ndarray:
    """(2, 2, 3): the centres of the quarters, which lossy coding hardly changes."""
    height, width = image.shape[:2]
    return image[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)


def write_video(path: Path, count: int, per_s: int = 10, codec: str = "libx264", **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=per_s, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image(number), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")]
)
@pytest.mark.parametrize(
    ("frames_per_s", "expected"), [(1, [0, 10, 20, 30]), (4, [0, 3, 5, 8, 10, 13]), (1000, range(6))]
)
def test_the_first_frame_of_each_interval_is_used(tmp_path, name, codec, frames_per_s, expected):
    path = write_video(tmp_path / name, 36, codec=codec)
    frames = [(seconds, read()) for seconds, read in read_frames(path, frames_per_s)]
    assert len(frames) == {1: 4, 4: 15, 1000: 36}[frames_per_s]
    for number, (seconds, frame) in zip(expected, frames, strict=False):
        assert seconds == pytest.approx(number / 10, abs=1e-3)
        assert np.abs(centres(frame) - centres(image(number))).max() <= 12
        assert abs(centres(frame)[0, 0].mean() - grey(number)) < 3  # the neighbours are 6 apart


def test_a_video_recorded_upright_is_rotated(tmp_path):
    content = bytearray(write_video(tmp_path / "a.mov", 2).read_bytes())
    offset = content.index(b"tkhd") + 44  # the matrix: ISO/IEC 14496-12, section 8.3.2
    assert struct.unpack_from(">9i", content, offset) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    # (x, y) becomes (-y, x) with y pointing down: the upper edge becomes the right edge
    struct.pack_into(">9i", content, offset, 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    (tmp_path / "a.mov").write_bytes(content)
    ((_, read),) = read_frames(tmp_path / "a.mov", 1)
    assert read().shape == (WIDTH, HEIGHT, 3)
    assert np.abs(centres(read()) - centres(np.rot90(image(0), -1))).max() <= 12


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_frames_are_rows_and_a_second_run_computes_only_new_ones(tmp_path, name):
    path = write_video(tmp_path / "film.mp4", 36)
    photo = write_images(tmp_path / "photos", 1)[0]
    clip, out = tiny_clip(), tmp_path / name
    assert count_images([path]) is None
    done = embed_files(clip, iter_images([photo, path]), out)
    assert (done.num_embeddings, done.num_computed) == (5, 5)
    if name == "out.parquet":
        rows = pq.read_table(out).to_pylist()
        assert [row["path"] for row in rows[1:]] == [f"{path}#t={second}.000" for second in range(4)]
        assert {row["sha256"] for row in rows[1:]} == {hashlib.sha256(path.read_bytes()).hexdigest()}
        frames = [read() for _, read in read_frames(path, 1)]
        expected = clip.embed_images([photo, *frames])
        np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
        assert np.abs(expected[1] - expected[4]).max() > 1e-3
    moved = path.rename(tmp_path / "moved.mp4")
    again = embed_files(clip, iter_images([photo, moved], 2), out)
    assert (again.num_embeddings, again.num_computed) == (9, 4)


def test_a_truncated_video_is_a_broken_row_after_its_frames(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 100, movflags="faststart")
    content = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: len(content) * 3 // 4])
    seconds = [second for second, _ in read_frames(whole, 1)]
    assert seconds == list(range(10))
    done = embed_files(tiny_clip(), iter_images([cut]), tmp_path / "out.parquet")
    assert 4 <= done.num_embeddings < 10
    (broken,) = done.unreadable
    assert broken.path == str(cut)
    assert "cut.mp4: truncated: ends at " in broken.reason or "cannot be decoded as a video after " in broken.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "cannot be decoded as a video after 0.000 s: Invalid data"),
        (b"", "cannot be decoded as a video"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_not_a_video_is_a_broken_row_with_a_reason(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a.mp4").write_bytes(content)
    photo = write_images(tmp_path / "photos", 1)[0]
    done = embed_files(tiny_clip(), iter_images([tmp_path / "a.mp4", photo]), tmp_path / "out.npy")
    assert done.num_embeddings == 1
    assert reason in done.unreadable[0].reason


def test_a_video_without_a_video_stream_is_an_error(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ImageError, match=r"a\.mkv: no video stream"):
        list(read_frames(tmp_path / "a.mkv", 1))


def test_frames_above_the_limit_are_refused_before_decoding(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 3)
    monkeypatch.setattr("wordsight.data.video.MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(ImageError, match=r"a\.mp4: frames of 64 x 48 pixels; expected 1 to 3071"):
        next(read_frames(path, 1))


def test_damaged_videos_give_frames_or_a_one_line_error(tmp_path):
    whole = write_video(tmp_path / "a.mp4", 30).read_bytes()
    generator = np.random.default_rng(5)
    for _ in range(40):
        content = bytearray(whole)
        for index in generator.integers(0, len(content), 6):
            content[index] = generator.integers(256)
        (tmp_path / "b.mp4").write_bytes(content)
        try:
            for _, read in read_frames(tmp_path / "b.mp4", 10):
                assert read().ndim == 3
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_without_pyav_the_reason_says_what_to_install(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"none of 1 image .* a video needs .*: pip install 'wordsight\[video\]'"):
        embed_files(tiny_clip(), iter_images([path]), tmp_path / "out.npy")

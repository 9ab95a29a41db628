"""Videos of known colours: the times and the orientation of frames, and truncated files."""

import hashlib
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.tiny_clip import tiny_clip, write_images

from wordsight.data.inputs import count_images, iter_images
from wordsight.data.mp4 import MAX_SAMPLES, check_claims
from wordsight.data.video import is_video, read_frames
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


def claiming(content: bytes, count: int, size: int = 1) -> bytearray:
    """An MP4 file whose index claims `count` samples of `size` bytes in one chunk (ISO/IEC 14496-12, 8.6.1.2, 8.7)."""
    changed = bytearray(content)
    struct.pack_into(">II", changed, changed.index(b"stsz") + 8, size, count)
    struct.pack_into(">IIII", changed, changed.index(b"stsc") + 8, 1, 1, count, 1)
    struct.pack_into(">I", changed, changed.index(b"stts") + 12, count)
    return changed


@pytest.mark.parametrize("count", [MAX_SAMPLES + 1, 20_000_000, 1_000_000_000, (1 << 32) - 1])
def test_a_claim_of_a_billion_frames_is_refused_before_memory_is_allocated(tmp_path, count):
    content = claiming(write_video(tmp_path / "a.mp4", 10).read_bytes(), count)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.mp4: .*claims {count} frames in 1 edits, more than the limit"):
        list(read_frames(tmp_path / "a.mp4", 1))


def test_frames_times_edits_are_limited(tmp_path):
    content = claiming(write_video(tmp_path / "a.mp4", 10).read_bytes(), 1_000_000)
    struct.pack_into(">I", content, content.index(b"elst") + 8, 9)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ImageError, match="claims 1000000 frames in 9 edits"):
        list(read_frames(tmp_path / "a.mp4", 1))


def test_fragments_are_counted_too(tmp_path):
    path = write_video(tmp_path / "a.mp4", 36, movflags="frag_keyframe+empty_moov")
    assert len(list(read_frames(path, 10))) == 36
    content = bytearray(path.read_bytes())
    struct.pack_into(">I", content, content.index(b"trun") + 8, 1 << 31)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"claims 21474836\d+ frames"):
        list(read_frames(path, 10))


def test_uncompressed_audio_may_have_many_samples(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        video, audio = (
            container.add_stream("libx264", rate=10),
            container.add_stream("pcm_s16le", rate=8000, layout="mono"),
        )
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(3):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image(number), format="rgb24")))
        container.mux(video.encode())
        for _ in range(700):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(audio.encode(frame))
    check_claims(tmp_path / "a.mov")
    assert MAX_SAMPLES < 700 * 8000


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {url}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>',
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("is_local", [True, False])
def test_a_playlist_cannot_name_other_files_or_servers(tmp_path, kind, is_local):
    secret = write_video(tmp_path / "secret.mp4", 5)
    url = "secret.mp4" if is_local else "http://127.0.0.1:9/secret.mp4"
    playlist = tmp_path / "list.mp4"
    playlist.write_text(PLAYLISTS[kind].format(url=url))
    with pytest.raises(ImageError, match=r"list\.mp4: cannot be decoded as a video"):
        list(read_frames(playlist, 1))
    assert len(list(read_frames(secret, 10))) == 5


@pytest.mark.parametrize(
    "name", ["concat:a.mp4", "data:a.mp4", "http:a.mp4", "a b%20c.mp4", "-i.mp4", "subfile,,start,0,,:a.mp4"]
)
def test_a_file_name_is_never_a_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
    assert len(list(read_frames(Path(name), 10))) == 5


def test_a_video_without_frames_is_an_error(tmp_path):
    content = bytearray(write_video(tmp_path / "a.mp4", 5).read_bytes())
    struct.pack_into(">II", content, content.index(b"stsz") + 8, 1, 0)
    struct.pack_into(">I", content, content.index(b"stts") + 12, 0)
    struct.pack_into(">I", content, content.index(b"stsc") + 8, 0)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.mp4: (contains no frames|cannot be decoded as a video)"):
        list(read_frames(tmp_path / "a.mp4", 1))


def test_decoding_that_takes_too_long_for_a_frame_is_an_error(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 36)
    monkeypatch.setattr("wordsight.data.video.MAX_DECODING_S", -1.0)
    with pytest.raises(ImageError, match=r"a\.mp4: decoding takes longer than -1 s per frame; convert it"):
        list(read_frames(path, 1))


def test_pipes_are_not_videos_and_odd_names_are_no_tracebacks(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert not is_video(tmp_path / "pipe.mp4")
    assert is_video(tmp_path / "missing.mp4")
    for name in ("a" * 300 + ".mp4", "\udcff.mp4"):
        assert is_video(tmp_path / name)
        with pytest.raises(ImageError) as caught:
            list(read_frames(tmp_path / name, 1))
        assert str(caught.value).isprintable()

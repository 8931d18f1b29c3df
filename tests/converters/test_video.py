from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3v.converters.sampling import Sampling
from phi3v.converters.video import Decode, read_frames
from phi3v.schema import UserError

DrawClip = Callable[..., Path]


def frames_of(path: Path, count: int, *, decode: Decode = "needed") -> list[np.ndarray]:
    return read_frames(path, Sampling(count=count), decode=decode).frames


def frame_indices(total: int, count: int) -> list[int]:
    return Sampling(count=count).pick([Fraction(number) for number in range(total)])


def numbers(frames: list[np.ndarray]) -> list[int]:
    return [round((float(frame.mean()) - 5) / 10) for frame in frames]


@given(st.integers(1, 5000), st.integers(1, 64))
def test_indices_are_at_even_distances(total: int, count: int) -> None:
    indices = frame_indices(total, count)

    assert indices[0] == 0
    assert indices[-1] < total
    assert len(indices) == min(total, count)
    if total >= count:
        gaps = {after - before for before, after in itertools.pairwise(indices)}
        assert gaps <= {total // count, -(-total // count)}


def test_indices_by_hand() -> None:
    assert frame_indices(12, 8) == [0, 1, 3, 4, 6, 7, 9, 10]
    assert frame_indices(240, 8) == [0, 30, 60, 90, 120, 150, 180, 210]
    assert frame_indices(3, 8) == [0, 1, 2]


def test_the_frames_are_those_of_the_indices(draw_clip: DrawClip, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "a.avi", 12)

    frames = frames_of(clip, 8)

    assert numbers(frames) == [0, 1, 3, 4, 6, 7, 9, 10]
    assert frames[0].shape == (24, 32, 3)
    assert frames[0].dtype == np.uint8


def test_a_short_clip_gives_each_frame_once(draw_clip: DrawClip, tmp_path: Path) -> None:
    assert numbers(frames_of(draw_clip(tmp_path / "a.avi", 3), 8)) == [0, 1, 2]


def test_colours_are_in_opencvs_order(tmp_path: Path) -> None:
    red = np.zeros((24, 32, 3), dtype=np.uint8)
    red[..., 2] = 255
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(red, format="bgr24")))
        container.mux(stream.encode())

    blue, _, red_again = frames_of(tmp_path / "a.avi", 1)[0].reshape(-1, 3).mean(axis=0)

    assert red_again > 200 > 50 > blue


def test_frames_that_decode_are_counted_not_believed(draw_clip: DrawClip, tmp_path: Path) -> None:
    """An AVI cut in half still announces all its frames."""
    clip = draw_clip(tmp_path / "a.avi", 24)
    content = clip.read_bytes()
    cut = [match.start() for match in re.finditer(b"00dc", content)][14]
    clip.write_bytes(content[:cut])
    with av.open(str(clip)) as container:
        announced = container.streams.video[0].frames
        decoded = sum(1 for _ in container.decode(video=0))
    assert 8 < decoded < announced == 24

    assert numbers(frames_of(clip, 8)) == frame_indices(decoded, 8)


@pytest.mark.parametrize("content", [b"", b"This is no video at all.", b"RIFF\0\0\0\0AVI LIST"])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.avi").write_bytes(content)

    with pytest.raises(UserError) as caught:
        frames_of(tmp_path / "a.avi", 8)

    assert caught.value.where == tmp_path / "a.avi"
    assert "cannot decode" in caught.value.what
    assert caught.value.fix


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))

    with pytest.raises(UserError, match="no video stream"):
        frames_of(tmp_path / "a.wav", 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("decord_corrupted.mp4", "after 28 of 50 announced frames"),
        ("v_Empty_g01_c01.avi", "cannot decode"),
        ("v_NotAVideo_g01_c01.avi", "cannot decode"),
        ("v_HeaderOnly_g01_c01.avi", "cannot decode"),
        ("truncated_half.mp4", "cannot decode"),
    ],
)
def test_real_broken_clips_are_named(shared: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        frames_of(shared / "realdata" / "malformed_video" / name, 8)


def test_a_real_clip_cut_in_half_is_sampled_from_what_is_left(shared: Path) -> None:
    clip = shared / "realdata" / "malformed_video" / "v_HalfCut_g01_c01.avi"
    with av.open(str(clip)) as container:
        plain = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(plain) == 121

    frames = frames_of(clip, 8)

    assert all(np.array_equal(frame, plain[number * 121 // 8]) for number, frame in enumerate(frames))


def test_a_name_with_a_colon_is_no_protocol(
    draw_clip: DrawClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_clip(tmp_path / "2024:clips" / "a.avi", 2)
    monkeypatch.chdir(tmp_path)

    assert numbers(frames_of(Path("2024:clips/a.avi"), 8)) == [0, 1]


def test_a_title_in_an_old_encoding_is_no_obstacle(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "cafe"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), dtype=np.uint8), format="bgr24")))
        container.mux(stream.encode())
    content = (tmp_path / "a.avi").read_bytes()
    assert content.count(b"cafe") == 1
    (tmp_path / "a.avi").write_bytes(content.replace(b"cafe", "café".encode("latin-1")))

    assert len(frames_of(tmp_path / "a.avi", 8)) == 1

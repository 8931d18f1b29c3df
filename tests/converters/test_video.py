from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3v.converters.sampling import Method, Sampling, Short
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


# ------------------------------------------------------------------------------- decoding no more than what is needed


def plain(path: Path) -> list[np.ndarray]:
    """Decode everything in order, without our code."""
    with av.open(str(path), metadata_errors="ignore") as container:
        return [np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90) for frame in container.decode(video=0)]


def textured(path: Path, codec: str, frames: int, *, times: list[int] | None = None, **options: str) -> Path:
    """Write a clip whose frames all differ, with the codec's own key frames and reordering."""
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            view = np.ascontiguousarray(noise[number % 48 : number % 48 + 48, number % 64 : number % 64 + 64])
            frame = av.VideoFrame.from_ndarray(view, format="rgb24")
            frame.pts = times[number] if times else number
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


CODECS = {
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "mpeg4 with B-frames.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4 with B-frames.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "h264.mp4": ("libx264", {"g": "12", "bf": "3"}),
    "h264 open.mp4": ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}),
    "h264 open.mkv": ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}),
    "h264 one key frame.mp4": ("libx264", {"g": "1000"}),
    "h264.avi": ("libx264", {"g": "12", "bf": "2"}),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=12:bframes=3:open-gop=1:log-level=none:pools=1"}),
    "hevc.mkv": ("libx265", {"x265-params": "keyint=12:log-level=none:pools=1"}),
    "av1.mp4": ("libsvtav1", {"g": "12", "preset": "12", "svtav1-params": "lp=1"}),
    "av1.webm": ("libsvtav1", {"g": "12", "preset": "12", "svtav1-params": "lp=1"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "lag-in-frames": "8", "auto-alt-ref": "1", "deadline": "realtime"}),
    "mjpeg.avi": ("mjpeg", {}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("method", ["even", "middle"])
def test_frames_equal_those_of_a_sequential_decode(tmp_path: Path, name: str, method: Method) -> None:
    codec, options = CODECS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    clip = textured(tmp_path / name, codec, 61, **options)
    expected = plain(clip)

    sampled = read_frames(clip, Sampling(count=7, method=method))

    assert sampled.total == len(expected) == 61
    assert sampled.indices == [k * 61 // 7 if method == "even" else (2 * k + 1) * 61 // 14 for k in range(7)]
    for index, frame in zip(sampled.indices, sampled.frames, strict=True):
        assert np.array_equal(frame, expected[index])


def test_only_the_needed_stretches_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phi3v.converters import video

    clip = textured(tmp_path / "a.avi", "mpeg4", 120, g="12", sc_threshold="1000000000")
    frames = video._frames_of_stretches
    decoded = []

    def counted(*arguments: Any) -> Iterator[Any]:
        for frame in frames(*arguments):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video, "_frames_of_stretches", counted)
    monkeypatch.setattr(video, "_decode_whole", lambda *_: pytest.fail("decodes everything"))

    sampled = read_frames(clip, Sampling(count=4))

    # 0, 30, 60, 90 lie 0, 6, 0, 6 frames behind their key frames; and the end.
    assert sampled.indices == [0, 30, 60, 90]
    assert len(decoded) == 1 + 7 + 1 + 7 + 12


def test_key_frames_that_are_none_are_noticed(tmp_path: Path) -> None:
    from phi3v.converters import packets, video

    clip = textured(tmp_path / "a.mp4", "libx264", 61, g="100", bf="0")
    with av.open(str(clip)) as container:
        promise = packets.read_promise(container, container.streams.video[0])
    false = replace(promise, pictures=tuple(picture._replace(is_key=True) for picture in promise.pictures))

    wanted = [0, 30, 50]
    assert video._decode_stretches(clip, promise, wanted, promise.stretches(wanted), None)
    assert video._decode_stretches(clip, false, wanted, false.stretches(wanted), None) is None  # the whole way follows


def test_a_large_file_is_read_again_instead_of_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phi3v.converters.packets.KEPT_BYTES", 100)
    clip = textured(tmp_path / "a.mp4", "libx264", 61, g="12", bf="2")
    expected = plain(clip)

    sampled = read_frames(clip, Sampling(count=3))

    assert all(np.array_equal(f, expected[i]) for i, f in zip(sampled.indices, sampled.frames, strict=True))


@pytest.mark.parametrize("count", [1, 3, 8, 16, 64])
def test_every_real_clip_equals_a_sequential_decode(shared: Path, count: int) -> None:
    folder = shared / "realdata"
    clips = [
        path for name in ("ucf101/UCF-101", "video_misc", "malformed_video") for path in (folder / name).rglob("*.*")
    ]
    compared = refused = 0

    for clip in sorted(path for path in clips if path.suffix in {".avi", ".mp4", ".mov", ".gif"}):
        try:
            sampled = read_frames(clip, Sampling(count=count))
        except UserError:
            refused += 1
            with pytest.raises(av.FFmpegError):
                plain(clip)
            continue
        expected = plain(clip)
        assert sampled.total == len(expected), clip
        assert sampled.indices == frame_indices(len(expected), count)
        for index, frame in zip(sampled.indices, sampled.frames, strict=True):
            assert np.array_equal(frame, expected[index]), (clip, index)
            compared += 1

    assert refused == 5
    assert compared > 14 * min(count, 3)


# ----------------------------------------------------------------------------------------------- sampling, and the odd


def test_the_middle_of_each_segment_by_hand() -> None:
    times = [Fraction(number) for number in range(12)]

    assert Sampling(count=4, method="middle").pick(times) == [1, 4, 7, 10]
    assert Sampling(count=1, method="middle").pick(times) == [6]
    assert Sampling(count=20, method="middle").pick(times) == list(range(12))


def test_frames_by_the_second_are_what_a_viewer_sees() -> None:
    """Frames at 0, 0.1, 0.5, 0.9, 1.0 and 3.7 seconds: a variable rate."""
    times = [Fraction(tick, 10) for tick in (0, 1, 5, 9, 10, 37)]

    assert Sampling(count=9, method="fps", fps=1).pick(times) == [0, 4]  # at 2 and 3 s, frame 4 still stands
    assert Sampling(count=9, method="fps", fps=2).pick(times) == [0, 2, 4]
    assert Sampling(count=2, method="fps", fps=2).pick(times) == [0, 2]
    # 47 frames at 25 a second: the float 47 / 25 * 25 falls below 47
    exact = [Fraction(number, 25) for number in range(48)]
    assert Sampling(count=99, method="fps", fps=25).pick(exact) == list(range(48))


@pytest.mark.parametrize(
    ("short", "expected"), [("fewer", [0, 1, 2]), ("repeat", [0, 0, 0, 1, 1, 1, 2, 2]), ("reject", None)]
)
def test_a_clip_with_fewer_frames_than_asked_follows_the_stated_policy(
    draw_clip: DrawClip, tmp_path: Path, short: Short, expected: list[int] | None
) -> None:
    clip = draw_clip(tmp_path / "a.avi", 3)
    sampling = Sampling(count=8, short=short)

    if expected is None:
        with pytest.raises(UserError, match="3 frames, fewer than the 8 to take"):
            read_frames(clip, sampling)
    else:
        assert numbers(read_frames(clip, sampling).frames) == expected


def test_a_header_that_lies_costs_no_second_pass(
    draw_clip: DrawClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some writers of AVI announce one frame more than they write; the packets tell."""
    from phi3v.converters import video

    clip = draw_clip(tmp_path / "a.avi", 23)
    header, movi, rest = clip.read_bytes().partition(b"movi")
    clip.write_bytes(header.replace((23).to_bytes(4, "little"), (31).to_bytes(4, "little")) + movi + rest)
    whole, passes = video._decode_whole, []
    monkeypatch.setattr(video, "_decode_whole", lambda *given: passes.append(given) or whole(*given))

    sampled = read_frames(clip, Sampling(count=7))

    assert (sampled.total, sampled.announced) == (23, 31)
    assert numbers(sampled.frames) == frame_indices(23, 7) != frame_indices(31, 7)
    assert len(passes) == 1


def test_frames_that_are_taken_again_are_decoded_once(
    draw_clip: DrawClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3v.converters import video

    whole, passes = video._decode_whole, []
    monkeypatch.setattr(video, "_decode_whole", lambda *given: passes.append(given) or whole(*given))

    read_frames(draw_clip(tmp_path / "a.avi", 3), Sampling(count=8, short="repeat"))

    assert len(passes) == 1


@pytest.mark.parametrize(
    ("options", "message"), [({"count": 0}, "--num_frames 0"), ({"count": 1, "fps": 0.0}, "--fps 0")]
)
def test_a_sampling_that_takes_nothing_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**options)


def test_a_variable_rate_is_sampled_by_its_times(tmp_path: Path) -> None:
    times = [0, 1, 2, 3, 50, 51, 52, 100, 101, 102]
    clip = textured(tmp_path / "a.mkv", "libx264", 10, times=times, g="3", bf="0")

    sampled = read_frames(clip, Sampling(count=8, method="fps", fps=1))

    assert sampled.indices == [0, 3, 4, 6, 7]  # at 0, 1, 2, 3 and 4 s of 0, .04, .08, .12, 2, 2.04, 2.08, 4, ...
    assert sampled.seconds == pytest.approx([0, 0.12, 2, 2.08, 4], abs=0.001)


def test_times_are_those_that_a_public_list_has(shared: Path) -> None:
    """nasa_13013.mp4's frames, listed by the authors of another decoder."""
    clip = shared / "realdata/video_misc/nasa_13013.mp4"
    # Stream 0 is the first video stream; ours and theirs start at the first frame.
    listed = json.loads(clip.with_name(f"{clip.name}.stream0.all_frames_info.json").read_text())
    seconds = [float(frame["pts_time"]) for frame in listed]

    sampled = read_frames(clip, Sampling(count=16))

    assert sampled.total == len(seconds)
    assert sampled.seconds == pytest.approx([seconds[index] - seconds[0] for index in sampled.indices], abs=1e-6)


def test_turned_clips_stand_upright_as_opencv_shows_them(shared: Path) -> None:
    import cv2

    for name, shape in (("decord_video_0.mov", (320, 568, 3)), ("decord_video_90.mov", (568, 320, 3))):
        clip = shared / "realdata/video_misc" / name
        frame = read_frames(clip, Sampling(count=1)).frames[0]
        witness = cv2.VideoCapture(str(clip)).read()[1]
        assert frame.shape == witness.shape == shape
        assert np.abs(frame.astype(int) - witness.astype(int)).mean() < 4


def test_a_frame_beyond_the_limit_is_refused_before_it_decodes(
    draw_clip: DrawClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi3v.converters.video.MAX_PIXELS", 32 * 24 - 1)

    with pytest.raises(UserError, match="32 x 24 pixels a frame, more than 767"):
        read_frames(draw_clip(tmp_path / "a.avi"), Sampling(count=1))


def test_a_video_without_frames_is_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.start_encoding()

    with pytest.raises(UserError) as caught:
        read_frames(tmp_path / "a.avi", Sampling(count=1))

    assert caught.value.what.startswith(("no frame", "cannot decode"))


def test_damage_in_between_is_found_where_everything_is_decoded(tmp_path: Path) -> None:
    """Whole packets of noise, in a stretch that no wanted frame needs."""
    clip = textured(tmp_path / "a.mp4", "libx264", 120, g="12", bf="0")
    with av.open(str(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(clip.read_bytes())
    for place, size in packets[14:20]:
        content[place + 4 : place + size] = b"\xff" * (size - 4)
    clip.write_bytes(content)
    sampling = Sampling(count=4)  # 0, 30, 60, 90

    needed = read_frames(clip, sampling)

    assert needed.indices == [0, 30, 60, 90]
    with pytest.raises(UserError, match=r"cannot decode this video after \d+ of 120 announced frames"):
        read_frames(clip, sampling, decode="all")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_and_cuts_end_in_frames_or_a_named_error(tmp_path: Path, data: st.DataObject) -> None:
    clip = tmp_path / "whole.avi"
    if not clip.exists():
        textured(clip, "mpeg4", 30, g="6")
    content = bytearray(clip.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=20)):
        content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "a.avi").write_bytes(content[: data.draw(st.integers(0, len(content)))])

    with suppress(UserError):
        sampled = read_frames(tmp_path / "a.avi", Sampling(count=5))
        assert len(sampled.frames) == min(5, sampled.total)

"""Videos made here: what is read, written, kept, and left after an interruption."""

from fractions import Fraction

import av
import numpy as np
import pytest

from co_detr.inference.video import is_video, process_video

GRAYS = [20 * index for index in range(10)]


def make_video(path, sizes=(48, 64), grays=GRAYS, sound=False, times=None):
    """A frame of each gray, at 10 per second, or at `times` in tenths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = sizes
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        tone = None
        if sound:
            tone = container.add_stream("aac", rate=16000, layout="mono")
        for index, gray in enumerate(grays):
            frame = av.VideoFrame.from_ndarray(np.full((*sizes, 3), gray, np.uint8), "rgb24")
            frame.pts, frame.time_base = (times or range(len(grays)))[index], Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            for index in range(16):
                samples = np.sin(np.arange(1000) / 5).astype(np.float32)[None] / 2
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, 1000 * index
                container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
    return str(path)


def read(path):
    """Mean gray and time of each frame, and the seconds of sound."""
    with av.open(str(path)) as container:
        frames = [(f.to_ndarray(format="rgb24"), f.time) for f in container.decode(video=0)]
    seconds = 0.0
    with av.open(str(path)) as container:
        if container.streams.audio:
            for frame in container.decode(audio=0):
                seconds += frame.samples / frame.sample_rate
    return [(frame.mean(), time) for frame, time in frames], frames[0][0].shape, seconds


def brighter(frames, times):
    return [np.minimum(frame.astype(int) + 10, 255).astype(np.uint8) for frame in frames]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_frame_is_processed_once_and_keeps_its_time(tmp_path, batch_size):
    source = make_video(tmp_path / "in.mp4", times=[0, 1, 2, 5, 6, 7, 8, 12, 13, 14])
    seen = []

    def process(frames, times):
        seen.append(len(frames))
        assert times == sorted(times)
        return brighter(frames, times)

    written = process_video(source, tmp_path / "out.mp4", process, batch_size=batch_size)
    frames, shape, _ = read(tmp_path / "out.mp4")
    assert written == 10 and sum(seen) == 10 and max(seen) == batch_size
    assert shape == (48, 64, 3)
    assert [gray for gray, _ in frames] == pytest.approx([gray + 10 for gray in GRAYS], abs=4)
    times = [0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 1.2, 1.3, 1.4]
    assert [time for _, time in frames] == pytest.approx(times, abs=1e-3)


def test_sound_is_kept_and_odd_sides_are_filled_up(tmp_path):
    source = make_video(tmp_path / "in.mkv", sound=True)

    def odd(frames, times):
        return [frame[:47, :63] for frame in frames]

    process_video(source, tmp_path / "out.mp4", odd)
    frames, shape, seconds = read(tmp_path / "out.mp4")
    assert len(frames) == 10 and shape == (48, 64, 3)
    assert seconds == pytest.approx(1.0, abs=0.15)


def test_an_interrupted_video_can_be_played_as_far_as_it_goes(tmp_path):
    def interrupted(frames, times):
        if times[0] > 0.55:
            raise KeyboardInterrupt
        return frames

    with pytest.raises(KeyboardInterrupt):
        process_video(make_video(tmp_path / "in.mp4"), tmp_path / "out.mp4", interrupted)
    frames, _, _ = read(tmp_path / "out.mp4")
    assert [gray for gray, _ in frames] == pytest.approx(GRAYS[:6], abs=4)


def test_it_ends_after_as_many_frames_as_wanted(tmp_path):
    source = make_video(tmp_path / "in.mp4")
    written = process_video(source, tmp_path / "out.mp4", brighter, batch_size=4, max_frames=6)
    assert written == 6 and len(read(tmp_path / "out.mp4")[0]) == 6


def test_a_file_that_breaks_off_gives_what_it_has(tmp_path, caplog):
    whole = make_video(tmp_path / "in.ts", grays=GRAYS * 20)
    content = (tmp_path / "in.ts").read_bytes()
    (tmp_path / "in.ts").write_bytes(content[: len(content) // 2])
    written = process_video(whole, tmp_path / "out.mp4", brighter)
    assert 20 < written < 200


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video_is_named(tmp_path, content):
    (tmp_path / "in.mp4").write_bytes(content)
    with pytest.raises(ValueError, match="in.mp4"):
        process_video(str(tmp_path / "in.mp4"), tmp_path / "out.mp4", brighter)


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="camera:63"):
        process_video("camera:63", "unused.mp4", brighter)


def test_videos_are_told_from_pictures():
    assert [is_video(name) for name in ("a.MP4", "b/c.webm", "0", "camera:1", "/dev/video2")] == (
        [True] * 5
    )
    assert not any(is_video(name) for name in ("a.jpg", "folder", "10.png", "shots/*.png"))


def test_folders_are_neither_videos_nor_cameras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("2023", "clips.ts"):
        (tmp_path / name).mkdir()
        assert not is_video(name) and not is_video(f"~/{name}")
    assert is_video("2024") and is_video("clips.mp4")

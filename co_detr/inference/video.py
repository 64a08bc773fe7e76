"""Videos and cameras, frame by frame: decoded, handed over, encoded again, in constant memory.

The sound of a file is kept as it is. Decoding and encoding are FFmpeg's, by the package `av`.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

logger = logging.getLogger("co_detr.predict")

Process = Callable[[list[np.ndarray], list[float]], list[np.ndarray]]
"""What is done to some frames, (h, w, 3) uint8 RGB, at their times in seconds."""

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".wmv"}

_CAMERA = re.compile(r"(?:camera|webcam)?:?(\d+)|/dev/video(\d+)")
_CAMERA_FORMATS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_CAMERA_RATE = 30
# x264's scale, lower is better: 23 is its default; thin boxes and small letters want a little more
_QUALITY = "20"


def is_video(name: str) -> bool:
    """Whether a path is one of a video, or means a camera ("camera:0", "0", "/dev/video0"); that of
    a folder is neither, as "2023"."""
    if os.path.isdir(os.path.expanduser(name)):
        return False
    return _CAMERA.fullmatch(name) is not None or Path(name).suffix.lower() in VIDEO_SUFFIXES


def process_video(
    source: str,
    target: Path,
    process: Process,
    *,
    batch_size: int = 1,
    max_frames: int | None = None,
) -> int:
    """Write a video of what `process` makes of another one's frames: H.264 in MP4.

    Frames keep their times, and a file its sound. After Ctrl-C or an error, the target has the
    frames until then and can be played; a camera ends in no other way.

    Args:
        source: a file, or a camera by number.
        target: written over. Frames of odd sides get a row or column more, as H.264 wants.
        process: returns as many frames as it gets, all of one size.
        batch_size: how many frames it gets at once.
        max_frames: end after as many; None for all.

    Returns:
        How many frames were written.

    Raises:
        ImportError: `av` is not installed.
        ValueError: the source cannot be read, or has no pictures.
    """
    av = _import_av()
    with ExitStack() as stack:
        reading = stack.enter_context(_open(av, source))
        if not reading.streams.video:
            raise ValueError(f"{source} has no video stream")
        stream = reading.streams.video[0]
        stream.thread_type = "AUTO"
        writer = _Writer(av, target, stream, _sound_of(reading, source))
        stack.callback(writer.close)
        total = min(filter(None, (stream.frames or None, max_frames)), default=None)
        progress = stack.enter_context(tqdm(total=total, unit="frame"))
        frames: list[Any] = []
        written = 0

        def flush() -> None:
            nonlocal written
            if not frames:
                return
            pictures = [_upright(frame) for frame in frames]
            times = [frame.time or 0.0 for frame in frames]
            for frame, picture in zip(frames, process(pictures, times), strict=True):
                writer.write(picture, frame)
            written += len(frames)
            progress.update(len(frames))
            frames.clear()

        for item in _decoded(av, reading, stream, writer.sound_source, source):
            if isinstance(item, av.Packet):
                writer.copy(item)
                continue
            frames.append(item)
            if len(frames) == batch_size or written + len(frames) == max_frames:
                flush()
            if written == max_frames:
                break
        flush()
        return written


class _Writer:
    """An MP4 file whose pictures are encoded and whose sound is copied.

    The stream of pictures is opened with the first of them, which decides the size.
    """

    def __init__(self, av: Any, target: Path, source: Any, sound: Any | None) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._av, self._source = av, source
        self._container = av.open(str(target), "w", format="mp4")
        self._pictures = self._container.add_stream(
            "libx264", rate=source.average_rate or source.guessed_rate or _CAMERA_RATE
        )
        self._pictures.pix_fmt = "yuv420p"
        self._pictures.options = {"crf": _QUALITY, "preset": "veryfast"}
        self._pictures.codec_context.time_base = source.time_base
        self.sound_source, self._sound = sound, None
        if sound is not None:
            try:
                self._sound = self._container.add_stream_from_template(sound)
            except ValueError as error:
                logger.warning(f"the sound cannot be kept in an MP4 file: {error}")
                self.sound_source = None
        self._waiting: list[Any] = []  # of sound, before there is a header
        self._started = False

    def write(self, picture: np.ndarray, like: Any) -> None:
        """Encode (h, w, 3) uint8 RGB at the time of the frame `like`."""
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if not self._started:
            self._pictures.height, self._pictures.width = picture.shape[:2]
            self._started = True
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = like.pts, like.time_base
        self._container.mux(self._pictures.encode(frame))
        for packet in self._waiting:
            self._container.mux(packet)
        self._waiting.clear()

    def copy(self, packet: Any) -> None:
        """Take over a packet of sound."""
        packet.stream = self._sound
        if self._started:
            self._container.mux(packet)
        else:
            self._waiting.append(packet)

    def close(self) -> None:
        """End the file, so that it can be played as far as it goes."""
        if self._started:
            self._container.mux(self._pictures.encode(None))
        self._container.close()


def _decoded(av: Any, reading: Any, stream: Any, sound: Any | None, source: str) -> Iterator[Any]:
    """Frames of a stream of pictures, and between them packets of the sound if there is one.

    A file that breaks off ends there, with a warning.
    """
    streams = [stream] if sound is None else [stream, sound]
    try:
        for packet in reading.demux(streams):
            if packet.stream is stream:
                yield from packet.decode()
            elif packet.dts is not None:  # the last one only says that there are no more
                yield packet
    except av.FFmpegError as error:
        logger.warning(f"{source} is damaged and ends early here: {error}")


def _upright(frame: Any) -> np.ndarray:
    """A frame as (h, w, 3) uint8 RGB, turned as the file says that it is to be shown."""
    picture = frame.to_ndarray(format="rgb24")
    quarters = round(getattr(frame, "rotation", 0) / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(picture, quarters)) if quarters else picture


def _sound_of(reading: Any, source: str) -> Any | None:
    if _CAMERA.fullmatch(source) or not reading.streams.audio:
        return None
    return reading.streams.audio[0]


def _open(av: Any, source: str) -> Any:
    camera = _CAMERA.fullmatch(source)
    try:
        if camera is None:
            return av.open(os.path.expanduser(source))
        if sys.platform not in _CAMERA_FORMATS:
            raise ValueError(f"cameras cannot be read on {sys.platform}: record to a file first")
        name, device = _CAMERA_FORMATS[sys.platform]
        return av.open(device.format(camera[1] or camera[2]), format=name)
    except (av.FFmpegError, OSError) as error:
        what = "is no camera that can be read" if camera else "cannot be read as a video"
        raise ValueError(f"{source} {what}: {error}") from error


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need the package av: pip install "co-detr[video]"') from error
    return av

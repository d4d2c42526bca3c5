"""Subtitles of a recording: SubRip (`.srt`) and WebVTT (`.vtt`).

SubRip has no standard; it is written as players read it. WebVTT is W3C's, 4.1 to 4.3.
"""

from collections.abc import Iterable
from typing import Literal

from device_runtime.speech.transcription import Segment

SubtitleFormat = Literal["srt", "vtt"]


class Subtitles:
    """A writer of subtitles, which takes segments as they come.

    Args:
        format: format of the file.

    Attributes:
        head: beginning of the file; may be empty.
    """

    def __init__(self, format: SubtitleFormat) -> None:
        self.head = "WEBVTT\n\n" if format == "vtt" else ""
        self._format = format
        self._number = 0

    def push(self, segments: Iterable[Segment]) -> str:
        """Write the next segments; one without text is left out."""
        return "".join(self._cue(segment) for segment in segments if segment.text.strip())

    def _cue(self, segment: Segment) -> str:
        # A blank line would end the text, and an arrow would make it a line of times.
        text = " ".join(segment.text.split()).replace("-->", "->")
        if self._format == "vtt":
            text = text.replace("&", "&amp;").replace("<", "&lt;")
            return f"{_time(segment.start, '.')} --> {_time(segment.end, '.')}\n{text}\n\n"
        self._number += 1
        times = f"{_time(segment.start, ',')} --> {_time(segment.end, ',')}"
        return f"{self._number}\n{times}\n{text}\n\n"


def subtitles(format: SubtitleFormat, segments: Iterable[Segment]) -> str:
    """Write a whole file.

    Args:
        format: format of the file.
        segments: all segments of the recording.
    """
    writer = Subtitles(format)
    return writer.head + writer.push(segments)


def _time(seconds: float, point: str) -> str:
    """Write a time: hours, minutes, seconds and thousandths."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds_left:02}{point}{thousandths:03}"

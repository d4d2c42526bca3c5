"""Subtitles, as players read them."""

from device_runtime.speech.subtitles import Subtitles, subtitles
from device_runtime.speech.transcription import Segment


def segment(start: float, end: float, text: str) -> Segment:
    return Segment(
        start=start,
        end=end,
        text=text,
        tokens=(),
        temperature=0,
        avg_logprob=-0.1,
        no_speech_prob=0,
        seek=0,
    )


SEGMENTS = [segment(0, 2.5, " Hello."), segment(59.9996, 3661.04, " Bye.")]


def test_subrip_numbers_its_cues() -> None:
    assert subtitles("srt", SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello.\n\n2\n00:01:00,000 --> 01:01:01,040\nBye.\n\n"
    )


def test_webvtt_has_a_head() -> None:
    assert subtitles("vtt", SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello.\n\n00:01:00.000 --> 01:01:01.040\nBye.\n\n"
    )


def test_piecewise_is_the_same_as_at_once() -> None:
    writer = Subtitles("srt")
    assert "".join(writer.push([part]) for part in SEGMENTS) == subtitles("srt", SEGMENTS)


def test_text_cannot_end_a_cue_or_look_like_one() -> None:
    _, text, *rest = subtitles("vtt", [segment(0, 1, " a\n\nb --> c & <i>d")])[8:].split("\n")
    assert text == "a b -> c &amp; &lt;i>d"
    assert rest == ["", ""]


def test_segment_without_text_is_left_out() -> None:
    assert subtitles("srt", [segment(0, 1, " "), SEGMENTS[0]]).startswith("1\n00:00:00,000 --> 0")
    assert subtitles("vtt", []) == "WEBVTT\n\n"

"""The speech model on the device writes what transformers' `generate` does, token by token, and
`edgepack-runtime transcribe` prints it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest

from device_runtime import memory
from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.bundle.release import Release
from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.engine import (
    GenerationChunk,
    GenerationRequest,
    NoMemoryNowError,
)
from device_runtime.speech.model import SpeechModel
from device_runtime.speech.recording import Recording
from device_runtime.speech.rules import SpeechTokens
from device_runtime.speech.transcriber import WhisperTranscriber
from device_runtime.speech.transcription import (
    AudioError,
    Segment,
    TranscriptionChunk,
    TranscriptionRequest,
)
from device_runtime.worker import process
from device_runtime.worker.messages import (
    FOR_PARENT,
    AnyRequest,
    Chunk,
    Generate,
    Loaded,
    frame,
    read,
)
from tests.support import releases, tiny_speech
from tests.support.commands import edgepack_runtime, refused
from tests.support.recordings import babble, wav
from tests.support.speech_releases import add_speech, make_onnx

PROMPT = "the names of that"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_speech.make(tmp_path_factory.mktemp("speech") / "hf")


@pytest.fixture(scope="module")
def onnx(source: Path) -> Path:
    return make_onnx(source, source.parent / "onnx", source.parent / "work")


@pytest.fixture(scope="module")
def english(source: Path, onnx: Path) -> Path:
    """The same weights as a model of English alone; returns its ONNX folder."""
    folder = shutil.copytree(onnx, source.parent / "english")
    config = json.loads((folder / "generation_config.json").read_bytes())
    for name in ("lang_to_id", "task_to_id"):
        del config[name]
    (folder / "generation_config.json").write_text(json.dumps(config | {"is_multilingual": False}))
    return folder


@pytest.fixture(scope="module")
def transcriber(onnx: Path) -> WhisperTranscriber:
    return WhisperTranscriber(onnx, memory_bytes=1, threads=1)


def write_down(
    transcriber: WhisperTranscriber,
    audio: bytes,
    cancelled: Callable[[], bool] = lambda: False,
    **options: Any,
) -> list[TranscriptionChunk]:
    request = TranscriptionRequest(audio=audio, **options)
    return list(transcriber.transcribe(request, cancelled))


def text_of(chunks: list[TranscriptionChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def segments_of(chunks: list[TranscriptionChunk]) -> list[Segment]:
    return [segment for chunk in chunks for segment in chunk.segments]


@cache
def reference(source: Path, config: Path) -> Any:
    """The model in transformers, steered by a folder's generation_config.json."""
    from transformers import GenerationConfig, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(source).eval()
    model.generation_config = GenerationConfig.from_pretrained(config)
    return model


def generated(
    source: Path, config: Path, audio: bytes, *, timed: bool, prompt: str = "", **options: Any
) -> list[dict[str, Any]]:
    """The segments that transformers makes of a recording."""
    import torch
    from transformers import WhisperFeatureExtractor

    recording = Recording(audio)
    long = {"truncation": False, "padding": "longest"} if recording.seconds > 30 else {}
    features = WhisperFeatureExtractor.from_pretrained(source)(
        recording.read(0, len(recording)), sampling_rate=16_000, return_tensors="pt", **long
    ).input_features
    if prompt:
        from transformers import WhisperTokenizer

        ids = WhisperTokenizer.from_pretrained(source).get_prompt_ids(prompt)
        options["prompt_ids"] = torch.tensor(np.array(ids))
    with torch.no_grad():
        answer = reference(source, config).generate(
            features,
            return_timestamps=timed,
            return_segments=True,
            temperature=0.0,
            no_speech_threshold=0.6,
            logprob_threshold=-1.0,
            **options,
        )
    segments: list[dict[str, Any]] = answer["segments"][0]
    return segments


def plain(tokens: Any, special: SpeechTokens) -> list[int]:
    return [int(token) for token in tokens if int(token) < special.end]


def expected_segments(
    segments: list[dict[str, Any]], model: SpeechModel, seconds: float
) -> list[tuple[float, float, list[int]]]:
    """Transformers' segments without those of silence, which it makes of the end of a window."""
    return [
        (round(float(part["start"]), 2), round(min(float(part["end"]), seconds), 2), words)
        for part in segments
        if model.text(words := plain(part["tokens"], model.special)).strip()
        and float(part["start"]) < seconds
    ]


@pytest.mark.parametrize(
    ("seconds", "seed", "timed", "prompt", "task"),
    [
        (5, 0, False, "", "transcribe"),
        (20, 1, False, PROMPT, "translate"),
        (20, 1, True, "", "transcribe"),
        (30, 0, True, PROMPT, "translate"),
        (70, 0, True, PROMPT, "transcribe"),
        (70, 2, True, "", "transcribe"),
    ],
)
def test_tokens_and_times_are_those_of_transformers(
    source: Path,
    onnx: Path,
    transcriber: WhisperTranscriber,
    seconds: int,
    seed: int,
    timed: bool,
    prompt: str,
    task: str,
) -> None:
    audio = wav(babble(seconds, seed))
    expected = generated(source, onnx, audio, timed=timed, prompt=prompt, task=task)
    model = SpeechModel(onnx, 1)
    chunks = write_down(transcriber, audio, timestamps=timed, prompt=prompt, task=task)
    last = chunks[-1]
    assert last.seconds == seconds
    if not timed:
        (part,) = expected
        words = plain(part["tokens"], model.special)
        assert text_of(chunks) == model.text(words).lstrip() != ""
        assert not segments_of(chunks)
        return
    segments = segments_of(chunks)
    assert [
        (round(part.start, 2), round(part.end, 2), plain(part.tokens, model.special))
        for part in segments
    ] == expected_segments(expected, model, seconds)
    assert len(segments) > 1 or seconds < 70
    assert text_of(chunks) == "".join(part.text for part in segments).lstrip()


def test_long_recording_has_the_same_text_with_and_without_times(
    transcriber: WhisperTranscriber,
) -> None:
    audio = wav(babble(40, 1))
    plain, timed = (write_down(transcriber, audio, timestamps=timed) for timed in (False, True))
    assert text_of(plain) == text_of(timed) != ""
    assert not segments_of(plain)


def test_language_is_the_one_that_transformers_hears(
    source: Path, onnx: Path, transcriber: WhisperTranscriber
) -> None:
    import torch
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(source)
    heard = set()
    for seed in range(4):
        audio = wav(babble(1, seed) * 10.0**-seed)
        recording = Recording(audio)
        features = extractor(
            recording.read(0, len(recording)), sampling_rate=16_000, return_tensors="pt"
        ).input_features
        token = int(reference(source, onnx).detect_language(torch.as_tensor(features))[0])
        chunks = write_down(transcriber, audio, prompt=PROMPT if seed % 2 else "")
        assert SpeechTokens.of(onnx).languages[chunks[-1].language] == token
        heard.add(token)
    assert heard


def test_given_language_and_task_precede_the_text(
    onnx: Path, transcriber: WhisperTranscriber
) -> None:
    assert write_down(transcriber, wav(babble(1, 0)), language="fr")[-1].language == "fr"
    model = SpeechModel(onnx, 1)
    names = "<|fr|>", "<|translate|>", "<|notimestamps|>"
    ids = [model.tokenizer.id_of(name) for name in names]
    assert model.marks("fr", "translate", timed=False) == ids
    assert model.marks("fr", "translate", timed=True) == ids[:2]


@pytest.mark.parametrize("timed", [False, True])
def test_english_model_writes_what_transformers_does(
    source: Path, english: Path, timed: bool
) -> None:
    audio = wav(babble(30, 2))
    expected = generated(source, english, audio, timed=timed)
    model = SpeechModel(english, 1)
    transcriber = WhisperTranscriber(english, memory_bytes=1, threads=1)
    chunks = write_down(transcriber, audio, timestamps=timed)
    words = [
        model.text(plain(part["tokens"], model.special))
        for part in expected
        if float(part["start"]) < 30
    ]
    assert text_of(chunks) == "".join(words).lstrip() != ""
    assert chunks[-1].language == "en"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"language": "de"}, "English alone, not the language 'de'"),
        ({"task": "translate"}, "cannot translate"),
    ],
)
def test_english_model_refuses_other_languages(
    english: Path, options: dict[str, Any], words: str
) -> None:
    transcriber = WhisperTranscriber(english, memory_bytes=1, threads=1)
    with pytest.raises(RequestError, match=words):
        write_down(transcriber, wav(babble(1, 0)), **options)


def test_unknown_language_is_refused_with_those_that_are_known(
    transcriber: WhisperTranscriber,
) -> None:
    with pytest.raises(RequestError, match="does not know the language 'xx'; it knows de, en, es"):
        write_down(transcriber, wav(babble(1, 0)), language="xx")


def test_special_tokens_in_a_prompt_are_refused(transcriber: WhisperTranscriber) -> None:
    with pytest.raises(RequestError, match="the prompt has a special token"):
        write_down(transcriber, wav(babble(1, 0)), prompt="a <|en|> b")


def test_of_a_long_prompt_the_end_counts(onnx: Path, transcriber: WhisperTranscriber) -> None:
    audio = wav(babble(2, 0))
    end = " of" * (tiny_speech.CONTEXT // 2 - 1)
    whole, cut = (write_down(transcriber, audio, prompt=text) for text in ("xyz" + end, end))
    assert text_of(whole) == text_of(cut) != text_of(write_down(transcriber, audio))
    usage = whole[-1].usage
    assert usage is not None
    # Language, task and the absence of times follow the start.
    assert usage.prompt_tokens == tiny_speech.CONTEXT // 2 + 4


def test_usage_and_steps(transcriber: WhisperTranscriber) -> None:
    chunks = write_down(transcriber, wav(babble(2, 0)))
    usage = chunks[-1].usage
    assert usage is not None
    assert chunks[0].is_empty
    assert not any(chunk.usage for chunk in chunks[:-1])
    # One token a step, so that other requests can run in between.
    assert len(chunks) >= usage.completion_tokens > 0
    assert usage.prompt_tokens == 4


def test_sampling_writes_another_text_each_time(transcriber: WhisperTranscriber) -> None:
    audio = wav(babble(2, 0))
    assert len({text_of(write_down(transcriber, audio, temperature=1.0)) for _ in range(3)}) > 1


def test_cancelled_request_ends_with_what_there_is(transcriber: WhisperTranscriber) -> None:
    audio = wav(babble(2, 0))
    whole = text_of(write_down(transcriber, audio))
    polls = iter(range(1000))
    chunks = write_down(transcriber, audio, lambda: next(polls) > 20)
    assert whole.startswith(text_of(chunks))
    assert 0 < len(text_of(chunks)) < len(whole)
    assert chunks[-1].usage is not None


def test_recording_that_cannot_be_read_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    transcriber = WhisperTranscriber(tmp_path, memory_bytes=1 << 60, threads=1)
    with pytest.raises(AudioError):
        write_down(transcriber, b"fLaC")


def test_model_that_does_not_fit_now_is_refused(
    onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 20 << 20)
    transcriber = WhisperTranscriber(onnx, memory_bytes=21 << 20, threads=1)
    with pytest.raises(NoMemoryNowError, match="needs 21 MiB of memory, 20 MiB are free"):
        write_down(transcriber, wav(babble(1, 0)))


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "generation_config.json"])
def test_model_that_does_not_load_is_an_error(onnx: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(onnx, tmp_path / "damaged")
    (folder / name).write_bytes(b"{")
    with pytest.raises(EngineError, match="load") as caught:
        write_down(WhisperTranscriber(folder, memory_bytes=1, threads=1), wav(babble(1, 0)))
    assert caught.value.hint


# The worker of `serve`, and the command


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("transcribe") / "release"
    return add_speech(releases.release(folder, tiny_onnx), onnx, tiny_speech.LANGUAGES)


def test_worker_writes_down_while_it_answers(
    release: Release, transcriber: WhisperTranscriber
) -> None:
    audio = wav(babble(1, 0))
    requests: list[AnyRequest] = [
        GenerationRequest(prompt="Hi", max_tokens=5),
        TranscriptionRequest(audio=audio),
    ]
    command = process.command(release.folder, threads=1)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        for number, request in enumerate(requests):
            worker.stdin.write(frame(Generate(id=number, request=request)))
        worker.stdin.flush()
        running, text, answered = {0, 1}, "", 0
        while running:
            message = read(cast(BinaryIO, worker.stdout), FOR_PARENT)
            assert isinstance(message, Loaded | Chunk), message
            if isinstance(message, Loaded):
                continue
            if isinstance(message.chunk, TranscriptionChunk):
                text += message.chunk.text
            elif isinstance(message.chunk, GenerationChunk) and message.chunk.usage:
                answered = message.chunk.usage.completion_tokens
            if message.chunk.usage is not None:
                running.remove(message.id)
    assert text == text_of(write_down(transcriber, audio)) != ""
    assert answered


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "speech.wav"
    path.write_bytes(wav(babble(40, 1)))
    return path


def test_command_prints_the_text(
    release: Release, recording: Path, transcriber: WhisperTranscriber
) -> None:
    done = edgepack_runtime("transcribe", "--release", release.folder, recording)
    assert done.status == 0, done.err
    assert done.out == text_of(write_down(transcriber, recording.read_bytes())) + "\n"


@pytest.mark.slow
def test_frozen_program_prints_the_same(
    host_release: Release, release: Release, recording: Path
) -> None:
    arguments = ("transcribe", "--release", release.folder, "--format", "vtt", recording)
    frozen = subprocess.run(
        [host_release.folder / RUNTIME_ENTRY, *arguments], capture_output=True, check=True
    )
    assert frozen.stdout.decode() == edgepack_runtime(*arguments).out != ""


def test_command_prints_json_and_subtitles(
    release: Release, recording: Path, transcriber: WhisperTranscriber
) -> None:
    options = ("--release", release.folder, "--language", "DE", "--translate", "--prompt", PROMPT)
    expected = write_down(
        transcriber,
        recording.read_bytes(),
        language="de",
        task="translate",
        prompt=PROMPT,
        timestamps=True,
    )
    done = edgepack_runtime("transcribe", *options, "--json", recording)
    answer = json.loads(done.out)
    assert (answer["file"], answer["language"]) == (str(recording), "de")
    assert (answer["text"], answer["seconds"]) == (text_of(expected), 40)
    starts = [part.start for part in segments_of(expected)]
    assert [part["start"] for part in answer["segments"]] == starts
    subtitles = edgepack_runtime("transcribe", *options, "--format", "vtt", recording).out
    assert subtitles.startswith("WEBVTT\n\n00:00:")
    assert subtitles.count(" --> ") == len(starts)


def test_command_reads_a_stream(release: Release, transcriber: WhisperTranscriber) -> None:
    audio = wav(babble(1, 0))
    streamed = audio[:4] + b"\xff\xff\xff\xff" + audio[8:40] + b"\xff\xff\xff\xff" + audio[44:]
    done = subprocess.run(
        [sys.executable, "-m", "device_runtime", "transcribe", "--release", release.folder, "-"],
        input=streamed,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == text_of(write_down(transcriber, audio)) + "\n"


def test_command_refuses_what_it_cannot_read(release: Release, tmp_path: Path) -> None:
    there = ("transcribe", "--release", release.folder)
    refused(edgepack_runtime(*there, tmp_path / "missing.wav"), 12, "No such file")
    refused(edgepack_runtime(*there, tmp_path), 12, "Is a directory")
    (tmp_path / "a.mp3").write_bytes(b"ID3\4" + bytes(50))
    refused(edgepack_runtime(*there, tmp_path / "a.mp3"), 12, "MP3", "ffmpeg")


def test_command_needs_a_speech_model(tiny_onnx: Path, tmp_path: Path) -> None:
    release = releases.release(tmp_path / "release", tiny_onnx)
    (tmp_path / "a.wav").write_bytes(wav(babble(1, 0)))
    outcome = edgepack_runtime("transcribe", "--release", release.folder, tmp_path / "a.wav")
    refused(outcome, 12, "this release has no speech model", "--speech-model")


def test_subtitles_are_of_one_file(release: Release, recording: Path) -> None:
    there = ("transcribe", "--release", release.folder, "--format", "srt")
    outcome = edgepack_runtime(*there, recording, recording)
    assert outcome.status == 2
    assert "--format srt is for one file" in outcome.err

"""Answers by beam search."""

from collections.abc import Generator

from device_runtime.inference.answer_text import AnswerText
from device_runtime.inference.engine import FinishReason, GenerationChunk
from device_runtime.inference.genai_model import GenAIModel
from device_runtime.inference.job import Job, end
from device_runtime.inference.piece import Piece
from device_runtime.inference.sampling import check_finite


def beam_search(model: GenAIModel, job: Job) -> Generator[GenerationChunk, None, FinishReason]:
    """Generate the best answer of a beam search, in a single chunk."""
    generator, prompt = job.slot.generator, job.prompt
    generator.append_tokens(prompt)
    check_finite(generator.get_logits())
    for _ in range(job.length - len(prompt)):
        if job.cancelled():
            yield end(job, FinishReason.CANCELLED)
            return FinishReason.CANCELLED
        generator.generate_next_token()
        if generator.is_done():
            break
        yield GenerationChunk()
    generated = [int(token) for token in generator.get_sequence(0)[len(prompt) :]]
    ends = [place for place, token in enumerate(generated) if token in model.end_tokens]
    said = generated[: ends[0]] if ends else generated
    tokens = len(said) + bool(ends)
    job.progress.add(tokens)
    answer = AnswerText(job.request, model.stream(job.request), job.stage)
    piece = Piece()
    if job.echo is not None:
        piece.add("", job.echo.text)
    for token in said:
        piece.add(*answer.push(token))
        if answer.stop:
            break
    piece.add(*answer.end())
    job.progress.reasoning_tokens += answer.reasoning_tokens
    reason = FinishReason.STOP if ends or answer.stop else FinishReason.LENGTH
    yield end(job, reason, piece, tokens, stop=answer.stop)
    return reason

"""Building of Anthropic's responses: the engine's chunks in, the API's objects out."""

import msgspec

from device_runtime.api.answer_reader import AnswerEvent, AnswerReader, Thoughts
from device_runtime.api.anthropic import response_types as objects
from device_runtime.api.anthropic.requests import MessageRequest
from device_runtime.api.response_types import ResponseMeta
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import FinishReason, GenerationChunk, Usage
from device_runtime.tools.call_parser import CallArguments, CallStarted, Text


class MessageAnswer:
    """A `message`, or the events of a streamed one.

    Args:
        meta: fields of the response.
        parsed: the request.
        served: the model that answers.
    """

    def __init__(self, meta: ResponseMeta, parsed: MessageRequest, served: ServedModel) -> None:
        self._meta = meta
        self._parsed = parsed
        self._reader = AnswerReader(parsed.tools, served.dialect)
        self._blocks: list[tuple[objects.ContentBlock, list[str]]] = []
        self._is_started = False
        self._stop: objects.StopDelta | None = None
        self._usage = objects.MessageUsage(input_tokens=0, output_tokens=0)

    def push(self, chunk: GenerationChunk) -> list[msgspec.Struct]:
        """See `Answer.push`."""
        events: list[msgspec.Struct] = []
        if not self._is_started:
            self._is_started = True
            used = objects.MessageUsage(input_tokens=chunk.prompt_tokens, output_tokens=0)
            events.append(objects.MessageStart(self._message([], None, used)))
        for event in self._reader.read(chunk):
            events += self._add(event)
        if chunk.finish_reason is not None:
            events += self._end_block()
            assert chunk.usage is not None
            self._usage = _usage(chunk.usage)
            self._stop = objects.StopDelta(self._reason(chunk), chunk.stop or None)
            events += [objects.MessageDelta(self._stop, self._usage), objects.MessageStop()]
        return events

    def whole(self) -> objects.Message:
        """See `Answer.whole`."""
        blocks = [whole for block in self._blocks if (whole := _whole(*block)) is not None]
        return self._message(blocks, self._stop, self._usage)

    def _message(
        self,
        content: list[objects.ContentBlock],
        stop: objects.StopDelta | None,
        usage: objects.MessageUsage,
    ) -> objects.Message:
        return objects.Message(
            id=f"msg_{self._meta.id}",
            model=self._meta.model,
            content=content,
            stop_reason=stop.stop_reason if stop is not None else None,
            stop_sequence=stop.stop_sequence if stop is not None else None,
            usage=usage,
        )

    def _add(self, event: AnswerEvent) -> list[msgspec.Struct]:
        """Add an event to the answer, and return it as the API sends it."""
        match event:
            case Thoughts() if not self._parsed.shows_thoughts:
                return self._begin_of(objects.ThinkingBlock(""))
            case Thoughts(text=text):
                return self._continue(objects.ThinkingBlock(""), objects.ThinkingDelta(text), text)
            case Text(text=text):
                return self._continue(objects.TextBlock(""), objects.TextDelta(text), text)
            case CallStarted(id=call, name=name):
                return self._begin_block(objects.ToolUseBlock(call, name, {}))
            case CallArguments(delta=text):
                return [self._delta(objects.InputJsonDelta(text), text)]

    def _continue(
        self,
        block: objects.TextBlock | objects.ThinkingBlock,
        delta: objects.TextDelta | objects.ThinkingDelta,
        text: str,
    ) -> list[msgspec.Struct]:
        """Add text to the last block if it is of the same kind, else to a new one."""
        return [*self._begin_of(block), self._delta(delta, text)]

    def _begin_of(self, block: objects.TextBlock | objects.ThinkingBlock) -> list[msgspec.Struct]:
        """Begin a block, unless the last one is of the same kind."""
        begins = not self._blocks or type(self._blocks[-1][0]) is not type(block)
        return self._begin_block(block) if begins else []

    def _begin_block(self, block: objects.ContentBlock) -> list[msgspec.Struct]:
        events = self._end_block()
        self._blocks.append((block, []))
        return [*events, objects.ContentBlockStart(len(self._blocks) - 1, block)]

    def _end_block(self) -> list[msgspec.Struct]:
        if not self._blocks:
            return []
        index = len(self._blocks) - 1
        events: list[msgspec.Struct] = [objects.ContentBlockStop(index)]
        if isinstance(self._blocks[-1][0], objects.ThinkingBlock):
            events.insert(0, objects.ContentBlockDelta(index, objects.SignatureDelta()))
        return events

    def _delta(
        self, delta: objects.TextDelta | objects.ThinkingDelta | objects.InputJsonDelta, text: str
    ) -> objects.ContentBlockDelta:
        self._blocks[-1][1].append(text)
        return objects.ContentBlockDelta(len(self._blocks) - 1, delta)

    def _reason(self, chunk: GenerationChunk) -> objects.StopReason:
        if chunk.finish_reason is not FinishReason.STOP:
            is_full = self._usage.output_tokens < self._parsed.generation.max_tokens
            return "model_context_window_exceeded" if is_full else "max_tokens"
        if chunk.stop:
            return "stop_sequence"
        calls = any(isinstance(block, objects.ToolUseBlock) for block, _ in self._blocks)
        return "tool_use" if calls else "end_turn"


class CountAnswer:
    """The number of a prompt's tokens; arguments as of `MessageAnswer`."""

    def __init__(self, meta: ResponseMeta, parsed: MessageRequest, served: ServedModel) -> None:
        self._tokens = 0

    def push(self, chunk: GenerationChunk) -> list[msgspec.Struct]:
        """See `Answer.push`."""
        self._tokens = self._tokens or chunk.prompt_tokens
        return []

    def whole(self) -> objects.TokensCount:
        """See `Answer.whole`."""
        return objects.TokensCount(self._tokens)


def _whole(block: objects.ContentBlock, parts: list[str]) -> objects.ContentBlock | None:
    """Return a block with its content; None for a call that was cut off."""
    text = "".join(parts)
    match block:
        case objects.TextBlock():
            return objects.TextBlock(text)
        case objects.ThinkingBlock():
            return objects.ThinkingBlock(text)
    try:
        arguments = msgspec.json.decode(text, type=dict)
    except msgspec.DecodeError:
        return None
    return msgspec.structs.replace(block, input=arguments)


def _usage(usage: Usage) -> objects.MessageUsage:
    return objects.MessageUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )

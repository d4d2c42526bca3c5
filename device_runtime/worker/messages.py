"""Messages between the parent and the inference process, and their framing.

A message is a msgpack map with its type in `type`, preceded by its length as 4 bytes, big-endian.
"""

import asyncio
from typing import IO, TypeVar

import msgspec

from device_runtime.errors import DeviceError, error_class
from device_runtime.inference.embedding import EmbeddingChunk, EmbeddingRequest
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.speech.transcription import TranscriptionChunk, TranscriptionRequest

AnyRequest = GenerationRequest | EmbeddingRequest | TranscriptionRequest
AnyChunk = GenerationChunk | EmbeddingChunk | TranscriptionChunk


class Warm(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Parent to child: prefill the prefix of conversations in idle time.

    Attributes:
        system: the system prompt; empty for none.
    """

    system: str


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Parent to child: answer this request, concurrently with the unfinished ones."""

    id: int
    request: AnyRequest


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Parent to child: cancel this request."""

    id: int


class Pace(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Parent to child: compute for a share of the time, and rest for the other.

    Attributes:
        share: the share, above 0; 1 for no rest.
    """

    share: float


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Child to parent: the model is loaded.

    Attributes:
        seconds: time that loading took.
    """

    seconds: float


class Chunk(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Child to parent: a chunk of an answer."""

    id: int
    chunk: AnyChunk


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Child to parent: a request (`id`), or loading the model (no `id`), failed.

    Attributes:
        kind: wire name of the error's class.
        message: message of the error.
        hint: hint of the error; may be empty.
        id: number of the request; None if the model did not load.
    """

    kind: str
    message: str
    hint: str
    id: int | None = None

    @property
    def error(self) -> DeviceError:
        """The error as an exception."""
        return error_class(self.kind)(self.message, hint=self.hint)

    @classmethod
    def of(cls, error: DeviceError, request: int | None) -> "Failed":
        """Create the message for an error.

        Args:
            error: the error that occurred.
            request: number of the request; None if the model did not load.
        """
        return cls(id=request, kind=error.wire_name, message=str(error), hint=error.hint)


ToChild = Warm | Generate | Cancel | Pace
ToParent = Loaded | Chunk | Failed

_LENGTH_BYTES = 4

M = TypeVar("M")


def frame(message: ToChild | ToParent) -> bytes:
    """Encode a message for the pipe."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


FOR_CHILD: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
FOR_PARENT: msgspec.msgpack.Decoder[ToParent] = msgspec.msgpack.Decoder(ToParent)


def read(pipe: IO[bytes], messages: msgspec.msgpack.Decoder[M]) -> M | None:
    """Read the next message from a blocking pipe; None at its end."""
    head = pipe.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    size = int.from_bytes(head, "big")
    data = pipe.read(size)
    return messages.decode(data) if len(data) == size else None


async def receive(pipe: asyncio.StreamReader, messages: msgspec.msgpack.Decoder[M]) -> M | None:
    """Read the next message from an asyncio pipe; None at its end."""
    try:
        head = await pipe.readexactly(_LENGTH_BYTES)
        return messages.decode(await pipe.readexactly(int.from_bytes(head, "big")))
    except asyncio.IncompleteReadError:
        return None

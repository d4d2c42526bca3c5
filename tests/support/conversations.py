"""The conversation of a request to the engine."""

from device_runtime.inference.engine import GenerationRequest, Message


def turns(request: GenerationRequest) -> tuple[Message, ...]:
    """Return the turns of a request that has a conversation."""
    assert isinstance(request.prompt, tuple)
    return request.prompt

"""Fields of a request on the model's thoughts: whether to think, and for how long."""

from device_runtime.api.chat_types import ChatBody, Effort
from device_runtime.api.errors import ApiError
from device_runtime.bundle.reasoning import Reasoning, Value
from device_runtime.inference.engine import Thinking

_NEAREST: dict[Effort, Effort] = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Efforts that models with efforts do not know, and the nearest that they know."""


def template_arguments(body: ChatBody, reasoning: Reasoning | None) -> dict[str, Value]:
    """Combine what a request says of thinking with its other arguments of the chat template.

    Args:
        body: the request.
        reasoning: how the model thinks; None if it does not.

    Raises:
        ApiError: the model cannot do what a field asks for, or two fields contradict each other.
    """
    arguments = dict(body.chat_template_kwargs or {})
    effort, switch = body.reasoning_effort, body.enable_thinking
    if effort is None and switch is None:
        return arguments
    name = "enable_thinking" if effort is None else "reasoning_effort"
    thinks = bool(switch) if effort is None else effort != "none"
    if switch not in (None, thinks):
        raise _error("enable_thinking contradicts reasoning_effort", "enable_thinking")
    if reasoning is None:
        if thinks:
            raise _error(f"{name}: this model does not think", name)
        return arguments
    value = reasoning.on if thinks else reasoning.off
    if not thinks and value is None:
        raise _error(
            f"{name}: this model always thinks; thinking_budget_tokens can bound its thoughts", name
        )
    argument = reasoning.argument
    if argument is None or value is None:
        return arguments
    if argument == "reasoning_effort" and reasoning.off is None and effort is not None:
        value = _NEAREST.get(effort, effort)
    if arguments.setdefault(argument, value) != value:
        raise _error(f"{name} contradicts chat_template_kwargs.{argument}", name)
    return arguments


def thinking(
    reasoning: Reasoning | None, arguments: dict[str, Value], budget: int | None
) -> Thinking | None:
    """Describe the thoughts of a model to the engine; None if it has none.

    Args:
        reasoning: how the model thinks; None if it does not.
        arguments: the arguments of the chat template.
        budget: maximum length of the thoughts, tokens; None for any.
    """
    if reasoning is None:
        return None
    switch = arguments.get(reasoning.argument or "")
    return Thinking(
        begin=reasoning.begin,
        end=reasoning.end,
        begin_tokens=reasoning.begin_tokens,
        end_tokens=reasoning.end_tokens,
        expected=reasoning.default if switch is None else switch != reasoning.off,
        budget=budget,
    )


def _error(message: str, param: str) -> ApiError:
    return ApiError(message, param=param, code="unsupported_value")

"""The types of Anthropic's own client, field by field: each one is known here, or refused."""

import typing
from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from anthropic import types
from anthropic.types import beta, message_create_params

from device_runtime.api.anthropic import request_types as bodies

KNOWN: dict[Any, tuple[type[msgspec.Struct], Collection[str]]] = {
    message_create_params.MessageCreateParamsStreaming: (
        bodies.MessagesBody,
        bodies.IGNORED | bodies.WITHOUT_EFFECT.keys(),
    ),
    types.MessageCountTokensParams: (
        bodies.CountTokensBody,
        bodies.IGNORED | bodies.WITHOUT_EFFECT.keys(),
    ),
    beta.message_create_params.MessageCreateParamsStreaming: (
        bodies.MessagesBody,
        # The betas are a header.
        bodies.IGNORED | bodies.WITHOUT_EFFECT.keys() | {"betas"},
    ),
    types.UserMessageParam: (bodies.MessageParam, ()),
    types.AssistantMessageParam: (bodies.MessageParam, ()),
    types.SystemMessageParam: (bodies.MessageParam, ()),
    types.TextBlockParam: (bodies.TextBlockParam, ()),
    types.ImageBlockParam: (bodies.ImageBlockParam, ()),
    types.Base64ImageSourceParam: (bodies.Base64ImageSource, ()),
    types.URLImageSourceParam: (bodies.UrlImageSource, ()),
    types.ToolUseBlockParam: (bodies.ToolUseBlockParam, ()),
    types.ToolResultBlockParam: (bodies.ToolResultBlockParam, ()),
    types.ThinkingBlockParam: (bodies.ThinkingBlockParam, ()),
    types.RedactedThinkingBlockParam: (bodies.RedactedThinkingBlockParam, ()),
    types.ToolParam: (bodies.ToolParam, bodies.TOOL_IGNORED | bodies.TOOL_WITHOUT_EFFECT.keys()),
    types.ToolChoiceAutoParam: (bodies.AutoChoice, ()),
    types.ToolChoiceAnyParam: (bodies.AnyChoice, ()),
    types.ToolChoiceToolParam: (bodies.ToolChoiceParam, ()),
    types.ToolChoiceNoneParam: (bodies.NoneChoice, ()),
    types.ThinkingConfigDisabledParam: (bodies.ThinkingDisabled, ()),
    types.ThinkingConfigAdaptiveParam: (bodies.ThinkingAdaptive, ()),
    types.ThinkingConfigEnabledParam: (bodies.ThinkingEnabled, ()),
    types.OutputConfigParam: (bodies.OutputConfig, ()),
    types.JSONOutputFormatParam: (bodies.OutputFormat, ()),
}
"""The client's type, ours, and the fields that are ignored or taken only with a neutral value."""


@pytest.mark.parametrize(("theirs", "ours"), KNOWN.items())
def test_each_field_is_decided(
    theirs: Any, ours: tuple[type[msgspec.Struct], Collection[str]]
) -> None:
    struct, others = ours
    known = {*struct.__struct_fields__, struct.__struct_config__.tag_field, *others}
    assert typing.get_type_hints(theirs).keys() <= known

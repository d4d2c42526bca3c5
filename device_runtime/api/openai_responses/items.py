"""The items of a conversation: read from a request, and translated to the turns of a chat."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from device_runtime.api.errors import ApiError
from device_runtime.api.fields import check_fields, invalid_value
from device_runtime.api.openai_responses.request_types import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputMessage,
    InputText,
    Item,
    ItemReference,
    OutputText,
    Reasoning,
    Refusal,
)

ITEM_TYPES: dict[str, type[Item | ItemReference]] = {
    "message": InputMessage,
    "function_call": FunctionCall,
    "function_call_output": FunctionCallOutput,
    "reasoning": Reasoning,
    "item_reference": ItemReference,
}

ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}

ITEM_IGNORED = frozenset({"created_by", "phase", "status"})
"""Fields of items that do not affect the answer."""

ITEM_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "async": (False,),
    "caller": ({"type": "direct"},),
    "encrypted_content": ("",),
    "namespace": (),
}
"""Unsupported fields of items, and the values besides null that say nothing."""


_Part = InputText | InputImage | OutputText | Refusal


class PlacedItem(NamedTuple):
    """An item, and the place in the request that it is from, for errors."""

    place: str
    item: Item


def read_items(
    items: str | Sequence[dict[str, Any]], resolve: Callable[[str], Item]
) -> list[PlacedItem]:
    """Read the field `input`.

    Args:
        items: the user's message, or items.
        resolve: returns an item that is kept, by its id; raises KeyError.

    Raises:
        ApiError: an item is invalid or not supported; the error names it.
    """
    if isinstance(items, str):
        return [PlacedItem("input", InputMessage(role="user", content=items))]
    return [
        PlacedItem(f"input[{number}]", _read(item, f"input[{number}]", resolve))
        for number, item in enumerate(items)
    ]


def _read(fields: dict[str, Any], place: str, resolve: Callable[[str], Item]) -> Item:
    fields = {name: value for name, value in fields.items() if value is not None}
    implied = "message" if "role" in fields else "item_reference"
    kind = fields.setdefault("type", implied)
    item_type = ITEM_TYPES.get(kind) if isinstance(kind, str) else None
    if item_type is None:
        where = f"{place}.type"
        shown = msgspec.json.encode(kind).decode()
        raise ApiError(f"{where} {shown} is not supported", param=where, code="unsupported_value")
    check_fields(fields, item_type, ITEM_WITHOUT_EFFECT, where=f"{place}.", ignored=ITEM_IGNORED)
    try:
        item = msgspec.convert(fields, item_type)
    except msgspec.ValidationError as error:
        problem = invalid_value(error)
        where = f"{place}.{problem.param}"
        raise ApiError(f"{place}.{problem}", param=where, code=problem.code) from None
    if not isinstance(item, ItemReference):
        return item
    try:
        return resolve(item.id)
    except KeyError:
        raise ApiError(
            f"{place}: the item {item.id!r} is not kept here; send the item itself",
            status=404,
            param=place,
            code="item_not_found",
        ) from None


class Turns(NamedTuple):
    """Turns of a chat, and where each part of them is from.

    Attributes:
        messages: the field `messages` of a chat completion.
        places: paths in that field, and in the request for a response.
    """

    messages: list[dict[str, Any]]
    places: dict[str, str]


def chat_turns(items: Sequence[PlacedItem]) -> Turns:
    """Translate items to turns of a chat.

    Thoughts, a message of the assistant and the calls that follow it are one turn; thoughts that
    neither follows are left out.
    """
    turns = Turns([], {})
    thoughts: dict[str, str] = {}
    for place, item in items:
        match item:
            case Reasoning():
                text = "".join(part.text for part in item.content or item.summary)
                thoughts = {"reasoning_content": text} if text else {}
                continue
            case InputMessage(role="assistant"):
                _add(turns, _assistant(_content(item.content), thoughts), place)
            case InputMessage():
                _add(turns, {"role": item.role, "content": _content(item.content)}, place)
            case FunctionCall():
                if thoughts or not turns.messages or turns.messages[-1]["role"] != "assistant":
                    _add(turns, _assistant("", thoughts), place)
                _add_call(turns, item, place)
            case FunctionCallOutput():
                result = {
                    "role": "tool",
                    "content": _content(item.output),
                    "tool_call_id": item.call_id,
                }
                where = _add(turns, result, place)
                turns.places[f"{where}.content"] = f"{place}.output"
                turns.places[f"{where}.tool_call_id"] = f"{place}.call_id"
        thoughts = {}
    return turns


def _assistant(content: str | list[dict[str, Any]], thoughts: dict[str, str]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **thoughts}


def _add(turns: Turns, message: dict[str, Any], place: str) -> str:
    where = f"messages[{len(turns.messages)}]"
    turns.messages.append(message)
    turns.places[where] = place
    if "[" not in place:
        turns.places[f"{where}.content"] = place  # the field itself is the text
    return where


def _add_call(turns: Turns, item: FunctionCall, place: str) -> None:
    calls = turns.messages[-1].setdefault("tool_calls", [])
    where = f"messages[{len(turns.messages) - 1}].tool_calls[{len(calls)}]"
    turns.places.update(
        {where: place, f"{where}.function": place, f"{where}.id": f"{place}.call_id"}
    )
    calls.append(
        {
            "id": item.call_id,
            "type": "function",
            "function": {"name": item.name, "arguments": item.arguments},
        }
    )


def _content(content: str | Sequence[_Part]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: _Part) -> dict[str, Any]:
    if isinstance(part, InputImage):
        return {"type": "image_url", "image_url": {"url": part.image_url}}
    return {"type": "text", "text": part.refusal if isinstance(part, Refusal) else part.text}


def known_item(fields: dict[str, Any]) -> Item:
    """Read an item of a response that is kept."""
    item_type: Any = ITEM_TYPES[fields["type"]]
    item: Item = msgspec.convert(fields, item_type)
    return item


def kept_items(items: Sequence[PlacedItem], response_id: str) -> list[dict[str, Any]]:
    """Write the items that a response answers, in the form in which OpenAI lists them.

    Args:
        items: the items; those without an id get one.
        response_id: unique part of the response's id.
    """
    return [
        _kept(item, f"{ID_PREFIXES[item.type]}_{response_id}_in{number}")
        for number, (_, item) in enumerate(items)
    ]


def _kept(item: Item, new_id: str) -> dict[str, Any]:
    fields = msgspec.to_builtins(item)
    assert isinstance(fields, dict)
    fields["id"] = item.id or new_id
    if isinstance(item, InputMessage):
        parts = [InputText(item.content)] if isinstance(item.content, str) else item.content
        fields["content"] = [_kept_part(part, item.role) for part in parts]
    if isinstance(item, Reasoning):
        fields["content"] = fields["content"] or []
    return fields | {"status": "completed"}


def _kept_part(part: _Part, role: str) -> dict[str, Any]:
    if isinstance(part, InputImage):
        return {"type": "input_image", "image_url": part.image_url, "detail": part.detail or "auto"}
    text = _part(part)["text"]
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}

"""JSON of tool calls: detection of its end in growing text, and decoding."""

import msgspec

SPACE = " \t\n\r"
"""JSON's white space."""

_OPEN, _CLOSE = "{[", "}]"
# Outside of strings: numbers, true, false and null.
_BARE = frozenset("0123456789+-.eEtrufalsn")


class _Function(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw()
    parameters: msgspec.Raw = msgspec.Raw()


class JsonEnd:
    """Detects the end of an object or array in growing text.

    Attributes:
        at: number of characters scanned, up to the first invalid one.
        broken: whether the text is not such a value, judged by its characters alone.
    """

    def __init__(self) -> None:
        self.broken = False
        self.at = 0
        self._open: list[str] = []
        self._in_string = False
        self._escaped = False

    def push(self, text: str) -> int | None:
        """Scan the text, of which `at` characters are already scanned.

        Returns:
            Position of the value's end; None if the value is not complete.
        """
        for at in range(self.at, len(text)):
            letter = text[at]
            if self._in_string:
                self._read_in_string(letter)
            elif letter == '"' and self._open:
                self._in_string = True
            elif letter in _OPEN:
                self._open.append(_CLOSE[_OPEN.index(letter)])
            elif letter in _CLOSE:
                self.broken = not self._open or self._open.pop() != letter
                if not self._open and not self.broken:
                    self.at = at + 1
                    return at + 1
            elif letter not in SPACE:
                self.broken = not self._open or (letter not in _BARE and letter not in ",:")
            if self.broken:
                self.at = at
                return None
        self.at = len(text)
        return None

    def _read_in_string(self, letter: str) -> None:
        if self._escaped:
            self._escaped = False
        elif letter == "\\":
            self._escaped = True
        elif letter == '"':
            self._in_string = False
        else:
            self.broken = letter < " "


def read_calls(value: str, name: str | None) -> list[tuple[str, str]]:
    """Decode a call or an array of calls.

    Args:
        value: JSON of the calls; with a name, JSON of the arguments alone.
        name: name of the tool, if it is written before the JSON.

    Returns:
        Names, and arguments as JSON text; empty if the value is not a call.
    """
    try:
        data = value.encode()
        if name is not None:
            return [(name, _object(data))]
        decoded = msgspec.json.decode(data, type=_Function | list[_Function])
        calls = decoded if isinstance(decoded, list) else [decoded]
        return [(call.name, _object(call.arguments or call.parameters)) for call in calls]
    except (ValueError, RecursionError):
        return []


def _object(data: bytes | msgspec.Raw) -> str:
    """Return JSON text of an object, which a model may have put into a string or omitted.

    Raises:
        ValueError: the value is not an object.
    """
    text = bytes(data) or b"{}"
    value = msgspec.json.decode(text)
    if isinstance(value, str):
        text = value.encode()
        value = msgspec.json.decode(text)
    if not isinstance(value, dict):
        raise ValueError("arguments must be an object")
    return text.decode()

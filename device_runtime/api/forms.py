"""Decoding of forms with files, as browsers and OpenAI's clients send them: RFC 7578.

Everything stays in memory: the body is there already, and its limit bounds the parts, too.
"""

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from device_runtime.api.errors import ApiError

MAX_PARTS = 64
"""Parts of a form; a list has one for each of its values."""


def decode_form(content_type: str, data: bytes) -> dict[str, Any]:
    """Decode a form's fields.

    Args:
        content_type: value of the header; it has the boundary.
        data: the body.

    Returns:
        Fields by their names: bytes of a file, or text; a list of them where several parts have
        the name, or where it ends with `[]`, which is taken off. Empty texts are left out: that is
        how forms send no value.

    Raises:
        ApiError: the body is not such a form.
    """
    kind, options = parse_options_header(content_type)
    if kind.lower() != b"multipart/form-data" or not options.get(b"boundary"):
        raise _invalid("the body must be a form: multipart/form-data, with its boundary")
    reader = _Reader()
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks)
        parser.write(data)
        parser.finalize()
    except FormParserError:
        raise _invalid("the body is not a valid form") from None
    if not reader.is_whole:
        raise _invalid("the form has no end: its last boundary is missing")
    return reader.fields


class _Reader:
    """The fields of a form, as the parser reports their pieces.

    Attributes:
        fields: the fields so far.
        is_whole: whether the form has ended.
        callbacks: functions for the parser.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.is_whole = False
        self.callbacks: Any = {
            "on_part_begin": self._on_part,
            "on_header_field": self._on_header_name,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        self._parts = 0

    def _on_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _invalid(f"the form has more than {MAX_PARTS} parts")
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = b""
        self._data = bytearray()

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]

    def _on_part_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if not name:
            raise _invalid("a part of the form has no name")
        value: bytes | str = bytes(self._data)
        if b"filename" not in options:
            try:
                value = self._data.decode()
            except UnicodeDecodeError:
                raise _invalid(f"{name}: must be UTF-8", name) from None
        if value != "":
            self._add(name, value)

    def _add(self, name: str, value: bytes | str) -> None:
        plain = name.removesuffix("[]")
        if name == plain and name not in self.fields:
            self.fields[name] = value
            return
        earlier = self.fields.get(plain, [])
        self.fields[plain] = [*(earlier if isinstance(earlier, list) else [earlier]), value]

    def _on_end(self) -> None:
        self.is_whole = True


def _invalid(message: str, param: str | None = None) -> ApiError:
    return ApiError(message, param=param, code="invalid_form")

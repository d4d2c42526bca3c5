"""The types of a manifest's fields: each one carries its bounds, so that nothing odd gets further.

Patterns end in `\\Z`: `$` would let a line break through.
"""

from typing import Annotated

from msgspec import Meta

MAX_FILE_BYTES = 8**11 - 1
"""Largest file that the header of a tar member can describe, bytes (8 GiB - 1)."""

VERSION = r"^[0-9][0-9A-Za-z.+-]{0,63}\Z"
_PORT = r"(?:[0-9]{1,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"(?:[A-Za-z0-9.-]{1,253}|\[(?=[^\]]*:)[0-9A-Fa-f:.]{2,45}\])"
ADDRESS = rf"^{_HOST}:{_PORT}\Z"
"""Pattern of `host:port`; an IPv6 address is in brackets."""

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
NoSha256 = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]
"""A digest, or an empty text where there is nothing to digest."""

Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}\Z")]
Version = Annotated[str, Meta(pattern=VERSION)]
Sequence = Annotated[int, Meta(ge=0, le=2**53)]
"""Up to where every JSON reader keeps whole numbers exact."""
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}\Z")]
"""A name of a profile or a kit."""
Machine = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,32}\Z")]
Compatible = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9,._+-]{0,127}\Z")]
"""A name of a board, a chip or an architecture."""
LibcVersion = Annotated[str, Meta(pattern=r"^[0-9]{1,4}(?:\.[0-9]{1,4}){1,2}\Z")]
Number = Annotated[str, Meta(pattern=r"^[0-9]{1,4}(?:\.[0-9]{1,4}){0,3}\Z")]
"""A version made of numbers only."""
Gpu = Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,2}\+?\Z")]
Library = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._+-]{1,128}\Z")]
CpuFeature = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,64}\Z")]

Line = Annotated[
    str,
    Meta(max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*\Z"),
]
"""Text of one line for people: it cannot move the cursor of a terminal or turn its direction."""
Text = Annotated[str, Meta(max_length=1 << 16)]
"""Text that people or models wrote, with anything in it; to be escaped where it is shown."""
Path = Annotated[str, Meta(max_length=512)]
"""Its rules are in `paths.py`."""
Pem = Annotated[str, Meta(max_length=4096)]

Count = Annotated[int, Meta(ge=0, le=2**53)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 50)]
FileBytes = Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
Mode = Annotated[int, Meta(ge=0, le=0o777)]
Token = Annotated[int, Meta(ge=0, lt=1 << 31)]
Vocabulary = Annotated[int, Meta(ge=1, le=1 << 31)]
Dimensions = Annotated[int, Meta(ge=1, le=1 << 16)]
Share = Annotated[float, Meta(ge=0, le=1)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]

# As of the options in `device_runtime/config/options.py`, which these are the defaults of.
Address = Annotated[str, Meta(pattern=ADDRESS)]
Threads = Annotated[int, Meta(ge=0, le=1024)]
MaxTokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Interval = Annotated[float, Meta(ge=0.1, le=86400)]
TokensPerSecond = Annotated[float, Meta(ge=0, le=1e6)]
ContextLength = Annotated[int, Meta(ge=1, le=1 << 20)]

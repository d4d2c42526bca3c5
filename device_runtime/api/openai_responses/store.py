"""The responses that are kept for later requests: in memory alone, a few, the latest ones."""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

_ENTRY_BYTES = 256
"""Bytes that a response or an item takes besides its text, about."""


class KeptResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response, and the conversation before it. As JSON, which is smaller than its objects.

    Attributes:
        id: id of the response.
        owner: name of the API key that it was made with; empty without keys.
        response: the response as it was sent.
        items: the conversation that it answers, a list of items with their ids.
        item_ids: ids of these items and of the response's own.
    """

    id: str
    owner: str
    response: bytes
    items: bytes
    item_ids: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        entries = 1 + len(self.item_ids)
        return len(self.response) + len(self.items) + entries * _ENTRY_BYTES

    def all_items(self) -> Iterator[dict[str, object]]:
        """Yield the items of the conversation, the response's own included."""
        yield from msgspec.json.decode(self.items)
        yield from msgspec.json.decode(self.response)["output"]


class ResponseStore:
    """Keeps responses within two limits; the oldest ones are dropped.

    Nothing of them is written to a disk or a log.

    Args:
        max_count: maximum number of responses; 0 keeps none.
        max_bytes: maximum size of all responses together, bytes.
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self._max_bytes = max_bytes
        self._bytes = 0
        self._responses: OrderedDict[str, KeptResponse] = OrderedDict()
        # The latest response with an item: an id is only unique among the items of its owner.
        self._with_item: dict[tuple[str, str], KeptResponse] = {}

    def put(self, kept: KeptResponse) -> None:
        """Keep a response, unless it alone exceeds the limits."""
        if self.max_count == 0 or kept.size > self._max_bytes:
            return
        self._responses[kept.id] = kept
        self._bytes += kept.size
        for item_id in kept.item_ids:
            self._with_item[kept.owner, item_id] = kept
        while len(self._responses) > self.max_count or self._bytes > self._max_bytes:
            self._drop(next(iter(self._responses.values())))

    def get(self, response_id: str, owner: str) -> KeptResponse:
        """Return a response.

        Raises:
            KeyError: the response does not exist, or is another owner's.
        """
        kept = self._responses[response_id]
        if kept.owner != owner:
            raise KeyError(response_id)
        return kept

    def item(self, item_id: str, owner: str) -> dict[str, object]:
        """Return an item of a response or of the conversation before it.

        Raises:
            KeyError: the item does not exist, or is another owner's.
        """
        kept = self._with_item[owner, item_id]
        return next(item for item in kept.all_items() if item["id"] == item_id)

    def delete(self, response_id: str, owner: str) -> None:
        """Drop a response; later responses keep the conversation that they answer.

        Raises:
            KeyError: the response does not exist, or is another owner's.
        """
        self._drop(self.get(response_id, owner))

    def _drop(self, kept: KeptResponse) -> None:
        del self._responses[kept.id]
        self._bytes -= kept.size
        for item_id in kept.item_ids:
            if self._with_item.get((kept.owner, item_id)) is kept:
                del self._with_item[kept.owner, item_id]

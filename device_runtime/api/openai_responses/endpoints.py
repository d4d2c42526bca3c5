"""The endpoints of the Responses API."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from device_runtime.api.errors import ApiError
from device_runtime.api.fields import invalid_value
from device_runtime.api.generation import Endpoint, Generation, response
from device_runtime.api.openai_responses.answer import CountAnswer, ResponseAnswer
from device_runtime.api.openai_responses.items import kept_items
from device_runtime.api.openai_responses.request_types import ItemQuery
from device_runtime.api.openai_responses.requests import ResponseRequest, parse_response
from device_runtime.api.openai_responses.response_types import (
    DeletedResponse,
    ItemList,
    ResponseObject,
)
from device_runtime.api.openai_responses.store import KeptResponse, ResponseStore
from device_runtime.api.outcomes import ApiEndpoint
from device_runtime.api.requests import ParsedRequest
from device_runtime.api.response_types import ResponseMeta
from device_runtime.api.served_model import ServedModel
from device_runtime.api.streaming import COMMENT, Frames, named_event
from device_runtime.api.translation import moved

PATH = "/v1/responses"


class Responses:
    """The endpoints of the Responses API.

    Args:
        generation: answers requests.
        store: keeps responses for later requests.
    """

    def __init__(self, generation: Generation, store: ResponseStore) -> None:
        self._generation = generation
        self._store = store

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = f"{PATH}/{{response_id}}"
        return [
            Route(PATH, self._create, methods=["POST"]),
            Route(f"{PATH}/input_tokens", self._count, methods=["POST"]),
            Route(path, self._kept_response, methods=["GET", "DELETE"]),
            Route(f"{path}/input_items", self._input_items, methods=["GET"]),
            Route(f"{path}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _create(self, request: Request) -> Response:
        exchange = _Exchange(self._store, _owner(request))
        endpoint = Endpoint(
            label=ApiEndpoint.RESPONSES,
            prompt="input",
            parse=exchange.parse,
            answer=exchange.begin,
            frames=Frames("text/event-stream", named_event, exchange.failed, waiting=COMMENT),
        )
        return await self._answer(request, exchange, endpoint)

    async def _count(self, request: Request) -> Response:
        exchange = _Exchange(self._store, _owner(request))
        endpoint = Endpoint(
            label=ApiEndpoint.COUNT_TOKENS,
            prompt="input",
            parse=exchange.parse_count,
            answer=CountAnswer,
        )
        return await self._answer(request, exchange, endpoint)

    async def _answer(
        self, request: Request, exchange: "_Exchange", endpoint: Endpoint[ParsedRequest]
    ) -> Response:
        try:
            return await self._generation.at(endpoint)(request)
        except ApiError as error:
            raise exchange.moved(error) from None

    async def _kept_response(self, request: Request) -> Response:
        if request.method == "DELETE":
            kept = self._kept(request)
            self._store.delete(kept.id, kept.owner)
            return response(DeletedResponse(kept.id))
        if request.query_params.get("stream", "false") != "false":
            raise ApiError(
                "stream is supported only as false: a response that is kept has ended",
                param="stream",
                code="unsupported_value",
            )
        return Response(self._kept(request).response, media_type="application/json")

    async def _input_items(self, request: Request) -> Response:
        query = _query(request)
        items: list[dict[str, Any]] = msgspec.json.decode(self._kept(request).items)
        if query.order == "desc":
            items.reverse()
        ids = [item["id"] for item in items]
        if query.after is not None:
            if query.after not in ids:
                raise ApiError(
                    f"after: the item {query.after!r} does not exist",
                    param="after",
                    code="invalid_value",
                )
            items = items[ids.index(query.after) + 1 :]
        shown = items[: query.limit]
        return response(
            ItemList(
                data=shown,
                first_id=shown[0]["id"] if shown else None,
                last_id=shown[-1]["id"] if shown else None,
                has_more=len(items) > len(shown),
            )
        )

    async def _cancel(self, request: Request) -> Response:
        raise ApiError(
            "only responses in the background can be cancelled, and this device has none; to stop "
            "an answer, close its connection",
            code="unsupported_value",
        )

    def _kept(self, request: Request) -> KeptResponse:
        response_id = request.path_params["response_id"]
        try:
            return self._store.get(response_id, _owner(request))
        except KeyError:
            raise ApiError(
                f"the response {response_id!r} is not kept here (this device keeps the latest "
                f"{self._store.max_count}, until it restarts)",
                status=404,
                code="response_not_found",
            ) from None


class _Exchange:
    """A request for a response and its answer.

    Args:
        store: keeps the response.
        owner: name of the request's API key; empty without keys.
    """

    def __init__(self, store: ResponseStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._request: ResponseRequest | None = None
        self._answer: ResponseAnswer | None = None

    def parse(self, data: bytes, served: ServedModel) -> ParsedRequest:
        """See `Endpoint.parse`."""
        self._request = parse_response(data, served, self._store, self._owner)
        return self._request.parsed

    def parse_count(self, data: bytes, served: ServedModel) -> ParsedRequest:
        """Parse a request that only counts its tokens; see `Endpoint.parse`."""
        parsed = self.parse(data, served)
        counting = msgspec.structs.replace(parsed.generation, counts=True)
        return msgspec.structs.replace(parsed, generation=counting, stream=False)

    def begin(
        self, meta: ResponseMeta, parsed: ParsedRequest, served: ServedModel
    ) -> ResponseAnswer:
        """See `Endpoint.answer`."""
        request = self._request
        assert request is not None
        is_kept = request.body.store is not False and self._store.max_count > 0

        def keep(whole: ResponseObject) -> None:
            if is_kept:
                items = kept_items(request.conversation, meta.id)
                ids = [item["id"] for item in items] + [item.id for item in whole.output]
                kept = KeptResponse(
                    id=whole.id,
                    owner=self._owner,
                    response=msgspec.json.encode(whole),
                    items=msgspec.json.encode(items),
                    item_ids=tuple(ids),
                )
                self._store.put(kept)

        self._answer = ResponseAnswer(meta, request, served, is_kept=is_kept, keep=keep)
        return self._answer

    def failed(self, error: ApiError) -> bytes:
        """See `Frames.error`."""
        assert self._answer is not None
        return named_event(self._answer.failed(error))

    def moved(self, error: ApiError) -> ApiError:
        """Return an error of the engine with the name that its field has in this API."""
        return error if self._request is None else moved(error, self._request.places)


def _owner(request: Request) -> str:
    name = request.scope.get("state", {}).get("key_name", "")
    assert isinstance(name, str)
    return name


def _query(request: Request) -> ItemQuery:
    try:
        return msgspec.convert(dict(request.query_params), ItemQuery, strict=False)
    except msgspec.ValidationError as error:
        raise invalid_value(error) from None

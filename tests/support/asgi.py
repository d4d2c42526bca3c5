"""Requests to an application in this process, without a network."""

import asyncio
from typing import Any

import httpx
from starlette.types import ASGIApp


def request(
    app: ASGIApp, method: str, path: str, *, base_url: str = "http://here", **options: Any
) -> httpx.Response:
    """Send one request, with the options of httpx, and wait for the whole response."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())

"""Requests to the hub: Hugging Face's HTTP interface, and the meaning of its refusals.

huggingface_hub has the session (proxies, HF_HUB_OFFLINE), the access token (HF_TOKEN, or the file
that `hf auth login` writes) and the errors. It sends the token to the hub alone: a redirect to the
storage of large files goes without it. Messages name hosts only: a whole URL may have a signature.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from device_runtime import __version__
from device_runtime.errors import RegistryError
from device_runtime.update.registry.transport import Patience, TransientError
from packager import console
from packager.errors import ModelSourceError

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 30.0
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of a hub that is too busy, or of a proxy before it."""
RESUMES = "Run the same command again later: it resumes."

T = TypeVar("T")


def endpoint() -> str:
    """Return the URL of the hub: `HF_ENDPOINT`, or the public one."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def url(repository: str, commit: str, path: str) -> str:
    """Return the URL of a file."""
    from huggingface_hub import hf_hub_url

    address: str = hf_hub_url(repository, path, revision=commit, endpoint=endpoint())
    return address


def get(path: str, params: Mapping[str, Any], of: type[T]) -> T:
    """Request a document of the hub's API; wait while the hub is too busy.

    Args:
        path: path below `/api/`.
        params: query of the URL.
        of: type of the document.

    Raises:
        ModelSourceError: the document is of another form.
        Exception: what `explained` translates.
    """
    from huggingface_hub import get_session

    patience = Patience(console.note)
    while True:
        try:
            response = get_session().get(
                f"{endpoint()}/api/{path}",
                params=dict(params),
                headers=headers(),
                timeout=TIMEOUT_S,
            )
            check(response)
            return msgspec.json.decode(response.content, type=of)
        except TransientError as error:
            patience.failed(error)
        except msgspec.DecodeError as error:
            raise ModelSourceError(
                f"{response.url.host} does not respond as the hub does: {error}",
                hint="Check HF_ENDPOINT and the proxy.",
            ) from None


def headers() -> dict[str, str]:
    """Return the header fields of a request, with the access token if there is one.

    Raises:
        ModelSourceError: the token cannot be one.
    """
    from huggingface_hub import get_token

    fields = {"User-Agent": f"edgepack/{__version__}"}
    token = get_token()
    if token is None:
        return fields
    if not (token.isascii() and token.isprintable()):
        raise ModelSourceError(
            "the access token of the hub has characters that no token has",
            hint="Set HF_TOKEN to your access token, or log in again: hf auth login.",
        )
    return {**fields, "Authorization": f"Bearer {token}"}


def check(response: httpx2.Response) -> None:
    """Raise the error that a response means.

    Raises:
        TransientError: the hub is too busy.
        HfHubHTTPError: the hub refuses the request.
    """
    from huggingface_hub import hf_raise_for_status

    if response.status_code in PASSING:
        seconds = response.headers.get("Retry-After", "")
        short = seconds.isascii() and seconds.isdecimal() and len(seconds) < 8
        raise TransientError(
            f"{response.url.host} responded with status {response.status_code}",
            retry_after_s=float(seconds) if short else 0.0,
        )
    hf_raise_for_status(response)


def resumed(address: str, offset: int, size: int, restart: Callable[[], None]) -> Iterator[bytes]:
    """Read a file of the hub from an offset to its end.

    Args:
        address: URL of the file.
        offset: bytes that are there already.
        size: size of the whole file, bytes.
        restart: called before the first bytes if they are those of the file's beginning, since
            the hub does not serve ranges.

    Raises:
        TransientError: the hub is too busy, or the connection was lost.
        Exception: what `explained` translates.
    """
    import httpx2
    from huggingface_hub import get_session

    fields = {**headers(), "Accept-Encoding": "identity"}
    if offset:
        fields["Range"] = f"bytes={offset}-"
    left = size - offset
    try:
        with get_session().stream("GET", address, headers=fields, timeout=TIMEOUT_S) as response:
            check(response)
            ranged = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
            if offset and not (response.status_code == 206 and ranged):
                restart()
                left = size
            for chunk in response.iter_bytes():
                piece = chunk[:left]
                left -= len(piece)
                yield piece
                if not left:
                    return
    except httpx2.TransportError as error:
        raise TransientError(f"the connection to the hub was lost: {_reason(error)}") from None
    if left:
        raise TransientError("the hub closed the connection early")


def unreachable() -> tuple[type[Exception], ...]:
    """Return the errors that mean that the hub cannot be reached, or must not be."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    return (httpx2.TransportError, OfflineModeIsEnabled)


@contextmanager
def explained(wanted: str, revision: str = "main") -> Iterator[None]:
    """Translate the errors of requests in a block, about a model or a search on the hub.

    Raises:
        ModelSourceError: the hub cannot be reached, or refuses a request.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelSourceError(
            f"{wanted} is gated: the hub requires you to accept its terms",
            hint="Accept them on the model's page, then set HF_TOKEN to your access token.",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelSourceError(
            f"{wanted} has no revision {revision!r} on the hub", hint="Check the part after the @."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelSourceError(
            f"{wanted} is neither a local path nor a model on the hub that you can access",
            hint="Check the name (`edgepack search` finds models); for a private model, set "
            "HF_TOKEN to your access token.",
        ) from None
    except unreachable() as error:
        raise ModelSourceError(
            f"{wanted}: the hub cannot be reached ({_reason(error)})",
            hint="Check the network, HTTPS_PROXY, HF_ENDPOINT and HF_HUB_OFFLINE, and run the same "
            "command again: it resumes. Without the hub: --model with a folder, a GGUF file, or "
            "smollm2-135m.",
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise ModelSourceError(
            f"the hub responded with status {status} for {wanted}",
            hint="Set HF_TOKEN to a valid access token." if status in (401, 403) else RESUMES,
        ) from None
    except RegistryError as error:  # of `Patience`
        raise ModelSourceError(f"{wanted}: {error}", hint=error.hint) from None


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return str(error) or type(error).__name__

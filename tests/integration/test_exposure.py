"""Who reaches the running service: keys, other hosts' pages, TLS, slow clients."""

import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from device_runtime.bundle.release import Release
from tests.support import certificates, releases
from tests.support.commands import edgepack_runtime, refused
from tests.support.serving import Serving, chat_body, eventually


@pytest.fixture(scope="module")
def release(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("exposure") / "release"
    return releases.release(folder, tiny_onnx, context_length=2048)


def test_key_is_made_used_and_revoked(release: Release, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = edgepack_runtime("api-key", "new", "laptop", "--file", file)
    assert made.status == 0, made.err
    key = made.out.strip().splitlines()[-1]
    assert key not in file.read_text()
    with Serving(release.folder, "--api-keys-file", str(file)) as server:
        url = f"{server.url}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {key}"}
        without = httpx.post(url, json=chat_body())
        assert without.status_code == 401
        assert without.json()["error"]["type"] == "authentication_error"
        for sent in (headers, {"x-api-key": key}):
            assert httpx.post(url, json=chat_body(), headers=sent).status_code == 200
        # The page asks for the key itself.
        assert httpx.get(server.url).status_code == 200
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        revoked = edgepack_runtime("api-key", "revoke", "laptop", "--file", file)
        assert revoked.status == 0, revoked.err
        assert eventually(
            lambda: httpx.post(url, json=chat_body(), headers=headers).status_code == 401
        )


def test_listening_beyond_loopback_needs_keys_or_a_word(release: Release) -> None:
    outcome = edgepack_runtime("serve", "--release", release.folder, "--listen", "0.0.0.0:0")
    refused(outcome, 13, "api-key", "--insecure-no-auth")


def test_pages_of_others_are_refused(release: Release) -> None:
    with Serving(release.folder) as server:
        url = f"{server.url}/v1/models"
        assert httpx.get(url).status_code == 200
        assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 403
        assert httpx.get(url, headers={"Origin": "https://evil.example"}).status_code == 403
        assert "access-control-allow-origin" not in httpx.get(url).headers


@pytest.mark.requires("openssl")
def test_tls(release: Release, tmp_path: Path) -> None:
    pair = certificates.make(tmp_path)
    arguments = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    command = ("serve", "--release", release.folder, "--listen", "127.0.0.1:0", arguments[0])
    refused(edgepack_runtime(*command, pair.certificate), 13, "--tls-key")
    with Serving(release.folder, *arguments, verify=str(pair.certificate)) as server:
        assert server.url.startswith("https://")
        response = httpx.post(
            f"{server.url}/v1/chat/completions", json=chat_body(), verify=server.verify
        )
        assert response.status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: ",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
    ],
)
def test_slow_client_is_let_go(release: Release, sent: bytes) -> None:
    with Serving(release.folder, "--client-timeout", "1") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as slow:
            slow.sendall(sent)
            while slow.recv(4096):
                pass
        assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_client_that_does_not_read_its_answer_frees_the_model(release: Release) -> None:
    with Serving(release.folder, "--client-timeout", "1") as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = b'{"prompt": "a", "max_tokens": 1900, "n": 16, "stream": true, "logprobs": 20}'
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((host, int(port)))
            lazy.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            eventually(lambda: server.get("/v1/status")["requests"]["cancelled"] == 1)


@pytest.mark.requires("openssl")
@pytest.mark.parametrize("tls", [False, True])
def test_idle_connections_lock_nobody_out(release: Release, tmp_path: Path, tls: bool) -> None:
    arguments: tuple[str, ...] = ()
    verify = ""
    if tls:
        pair = certificates.make(tmp_path)
        arguments = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
        verify = str(pair.certificate)
    with Serving(release.folder, *arguments, verify=verify) as server, ExitStack() as idle:
        host, port = server.url.partition("://")[2].split(":")
        for _ in range(700):
            idle.enter_context(socket.create_connection((host, int(port)), timeout=60))
        for path in ("/healthz", "/v1/models"):
            url = f"{server.url}{path}"
            assert httpx.get(url, verify=server.verify, timeout=60).status_code == 200


def test_a_request_with_two_lengths_is_refused_and_the_connection_closed(release: Release) -> None:
    """The rest of such a request is another one to whoever goes by the other length."""
    hidden = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    body = b"0\r\n\r\n" + hidden
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    with Serving(release.folder) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_long_header_is_refused(release: Release) -> None:
    with Serving(release.folder) as server:
        response = httpx.get(f"{server.url}/healthz", headers={"X-Long": "x" * 100_000})
        assert response.status_code in (400, 431)

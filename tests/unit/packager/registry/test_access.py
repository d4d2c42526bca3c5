"""Credentials, and the way to a registry: logins, tokens, redirects, proxies, certificates."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from device_runtime.errors import RegistryError
from device_runtime.update.registry import transport
from device_runtime.update.registry.reference import parse
from device_runtime.update.registry.transport import Transport
from packager.registry.access import Access, connect
from packager.registry.pull import pull
from packager.registry.push import push
from tests.support.bundles import draft
from tests.support.registries import FakeRegistry, Request, fake_registry

LOGIN = base64.b64encode(b"me:pass:word").decode()
TOKEN = "a-token"


@pytest.fixture
def registry(tmp_path: Path, own_cache: Path) -> Iterator[FakeRegistry]:
    """A registry with a bundle under the tag `1`."""
    bundle = draft().write(tmp_path / "b.epk")
    with fake_registry() as running:
        push(bundle, f"{running.url}:1", Access())
        running.requests.clear()
        yield running


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of Docker's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def write_login(docker: Path, registry: FakeRegistry) -> None:
    docker.write_text(json.dumps({"auths": {f"127.0.0.1:{registry.port}": {"auth": LOGIN}}}))


def wants(registry: FakeRegistry, challenge: str, authorization: str) -> None:
    """Let the registry respond to nobody without the right Authorization field."""

    def answer(request: Request) -> bool:
        if request.path.startswith("/token"):
            return request.reply(200, json.dumps({"token": TOKEN}).encode())
        if request.headers.get("Authorization") == authorization:
            return False
        return request.reply(401, WWW_Authenticate=challenge)

    registry.answer = answer


def fetch(registry: FakeRegistry, tmp_path: Path, access: Access | None = None) -> None:
    pull(f"{registry.url}:1", tmp_path / "pulled.epk", access or Access())
    assert (tmp_path / "pulled.epk").read_bytes() == (tmp_path / "b.epk").read_bytes()


def test_a_login_in_docker_s_configuration(
    registry: FakeRegistry, tmp_path: Path, docker: Path
) -> None:
    write_login(docker, registry)
    wants(registry, 'Basic realm="x"', f"Basic {LOGIN}")
    fetch(registry, tmp_path)
    assert registry.requests[0][2] is None, "credentials are sent when they are wanted"
    assert registry.requests[1][2] == f"Basic {LOGIN}"


def test_a_login_of_a_helper_program(
    registry: FakeRegistry, tmp_path: Path, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-ours"
    helper.write_text(
        "#!/bin/sh\nread server\n"
        f'[ "$1 $server" = "get 127.0.0.1:{registry.port}" ] || exit 1\n'
        'echo \'{"ServerURL": "x", "Username": "me", "Secret": "pass:word"}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    docker.write_text(json.dumps({"credsStore": "ours"}))
    wants(registry, 'Basic realm="x"', f"Basic {LOGIN}")
    fetch(registry, tmp_path)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"credsStore": "../../bin/sh"}, "is not the name of a credential helper"),
        ({"credsStore": "missing"}, "docker-credential-missing was not found"),
        ({"auths": {"127.0.0.1:1": {"auth": "!"}}}, "are not valid"),
        ({"auths": []}, "cannot be read"),
    ],
)
def test_configurations_that_cannot_be_used(docker: Path, config: object, match: str) -> None:
    docker.write_text(json.dumps(config))
    with pytest.raises(RegistryError, match=match) as caught:
        connect(parse("oci://127.0.0.1:1/a:1"), Access())
    assert caught.value.hint


def test_a_helper_that_has_no_login(
    registry: FakeRegistry, tmp_path: Path, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-ours"
    helper.write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    docker.write_text(json.dumps({"credHelpers": {f"127.0.0.1:{registry.port}": "ours"}}))
    fetch(registry, tmp_path)


def test_a_token_of_the_server_that_the_registry_names(
    registry: FakeRegistry, tmp_path: Path, docker: Path
) -> None:
    write_login(docker, registry)
    scope = "repository:team/bundle:pull"
    realm = f"http://127.0.0.1:{registry.port}/token?x=1"
    wants(registry, f'Bearer realm="{realm}",service="here",scope="{scope}"', f"Bearer {TOKEN}")
    fetch(registry, tmp_path)
    (asked,) = (request for request in registry.requests if "/token" in request[1])
    assert asked[2] == f"Basic {LOGIN}"
    assert parse_qs(urlsplit(asked[1]).query) == {"x": ["1"], "service": ["here"], "scope": [scope]}


@pytest.mark.parametrize(
    ("realm", "token", "match"),
    [
        ("http://tokens.example/token", b"", "plain HTTP"),
        ("file:///etc/passwd", b"", "invalid URL"),
        ("http://127.0.0.1:PORT/token", b"{}", "sent no token"),
        ("http://127.0.0.1:PORT/token", b'{"token": "a\\r\\nX: y"}', "sent no token"),
        ("http://127.0.0.1:PORT/token", b'{"token": "%s"}' % (b"a" * (1 << 20)), "more than"),
    ],
)
def test_token_servers_that_are_not_used(
    registry: FakeRegistry, tmp_path: Path, realm: str, token: bytes, match: str
) -> None:
    challenge = f'Bearer realm="{realm.replace("PORT", str(registry.port))}"'

    def answer(request: Request) -> bool:
        if request.path.startswith("/token"):
            return request.reply(200, token)
        return request.reply(401, WWW_Authenticate=challenge)

    registry.answer = answer
    with pytest.raises(RegistryError, match=match):
        fetch(registry, tmp_path)


def test_a_redirect_to_another_host_gets_no_credentials(
    registry: FakeRegistry, tmp_path: Path, docker: Path
) -> None:
    """As registries do that keep their blobs in another service."""
    write_login(docker, registry)
    wants(registry, 'Basic realm="x"', f"Basic {LOGIN}")
    inner = registry.answer
    with fake_registry() as store:
        store.blobs = registry.blobs

        def answer(request: Request) -> bool:
            if inner(request):
                return True
            if request.command != "GET" or "/blobs/" not in request.path:
                return False
            target = f"http://127.0.0.1:{store.port}{request.path}"
            return request.reply(307, Location=target)

        registry.answer = answer
        fetch(registry, tmp_path)
        assert len(store.requests) > 4
        assert {authorization for _, _, authorization in store.requests} == {None}


def test_a_redirect_in_a_circle(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.answer = lambda request: request.reply(302, Location=request.path)
    with pytest.raises(RegistryError, match="redirects in a circle"):
        fetch(registry, tmp_path)
    assert len(registry.requests) == 5


@pytest.mark.parametrize(
    "target", ["http://registry.example/x", "ftp://127.0.0.1/x", "http://a b/"]
)
def test_a_redirect_that_is_not_followed(
    registry: FakeRegistry, tmp_path: Path, target: str
) -> None:
    registry.answer = lambda request: request.reply(302, Location=target)
    with pytest.raises(RegistryError, match=r"plain HTTP|invalid URL"):
        fetch(registry, tmp_path)


def test_plain_http_is_for_this_machine_or_when_the_user_says_so() -> None:
    with pytest.raises(RegistryError, match="plain HTTP") as caught:
        Transport().origin("http://registry.example/v2/")
    assert "--plain-http" in caught.value.hint
    assert Transport().origin("http://127.0.0.1:5000/")[2] == 5000
    allowed = Transport(plain=frozenset(["registry.example"]))
    assert allowed.origin("http://registry.example/v2/") == ("http", "registry.example", 80)


def test_a_proxy_from_the_environment(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry plays the proxy of a host that does not exist."""
    monkeypatch.setenv("http_proxy", f"http://user:pw@127.0.0.1:{registry.port}")
    seen: list[tuple[str, str | None]] = []

    def answer(request: Request) -> bool:
        seen.append((request.path, request.headers.get("Proxy-Authorization")))
        request.path = urlsplit(request.path).path
        return False

    registry.answer = answer
    place = "oci://registry.example/team/bundle:1"
    pull(place, tmp_path / "pulled.epk", Access(plain_http=True))
    assert (tmp_path / "pulled.epk").read_bytes() == (tmp_path / "b.epk").read_bytes()
    assert seen[0][0] == "http://registry.example/v2/team/bundle/manifests/1"
    assert {value for _, value in seen} == {f"Basic {base64.b64encode(b'user:pw').decode()}"}


def test_https_goes_through_a_tunnel_unless_the_host_is_exempt(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transport, "RETRIES", 0)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{registry.port}")
    with pytest.raises(RegistryError, match="501"):  # our registry does not know CONNECT
        pull("oci://registry.invalid/a:1", tmp_path / "x.epk", Access())
    monkeypatch.setenv("no_proxy", "registry.invalid")
    with pytest.raises(RegistryError, match=r"no such host: registry.invalid|cannot be reached"):
        pull("oci://registry.invalid/a:1", tmp_path / "x.epk", Access())


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://127.0.0.1:x", "http://[::1"])
def test_proxies_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(RegistryError, match="the proxy is not an http:// URL"):
        pull("oci://registry.invalid/a:1", tmp_path / "x.epk", Access())


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(RegistryError, match="has no certificates"):
        connect(parse("oci://127.0.0.1:1/a:1"), Access(ca_file=empty))
    missing = Access(username="me", password_file=tmp_path / "missing")
    with pytest.raises(RegistryError, match="cannot be read"):
        connect(parse("oci://127.0.0.1:1/a:1"), missing)

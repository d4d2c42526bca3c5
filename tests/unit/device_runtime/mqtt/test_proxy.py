"""A proxy on the way to the broker."""

from pathlib import Path

import pytest

from device_runtime.errors import ServiceError
from device_runtime.mqtt.address import broker
from device_runtime.mqtt.proxy import Proxy, proxy


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:3128", Proxy(kind="HTTP", host="host", port=3128)),
        ("http://a%40b@[::1]:5/", Proxy(kind="HTTP", host="::1", port=5, username="a@b")),
        ("socks5://host:1080", Proxy(kind="SOCKS5", host="host", port=1080)),
    ],
)
def test_urls(url: str, expected: Proxy) -> None:
    assert proxy(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("host:3128", "https://host:3128", "http://host", "http://:3128", "http://host:x"),
        *("http://host:70000", "http://host:3128/path", "socks4://host:1080"),
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ServiceError) as caught:
        proxy(url)
    assert "http://HOST:PORT" in caught.value.hint


def test_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ServiceError) as caught:
        proxy("http://me:secret@host:3128")
    assert "secret" not in str(caught.value) + caught.value.hint
    assert "--mqtt-proxy-password-file" in caught.value.hint


def test_password_is_read_again_for_each_connection(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("wrong\n")
    address = broker("mqtt://host", proxy_url="http://me@proxy:1", proxy_password_file=path)
    assert address.through is not None
    path.write_text("right\n")
    assert address.through.options()["proxy_password"] == "right"
    assert "right" not in repr(address)


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://proxy:1", "user name"), (None, "requires the proxy's URL")],
)
def test_password_requires_a_proxy_and_a_user(
    tmp_path: Path, url: str | None, message: str
) -> None:
    (tmp_path / "password").write_text("right\n")
    with pytest.raises(ServiceError, match=message):
        broker("mqtt://host", proxy_url=url, proxy_password_file=tmp_path / "password")


def test_missing_password_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="missing"):
        proxy("http://me@proxy:1", tmp_path / "missing")

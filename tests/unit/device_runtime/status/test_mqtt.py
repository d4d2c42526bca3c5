"""Where the broker is."""

from pathlib import Path

import pytest

from device_runtime.errors import ServiceError
from device_runtime.status.mqtt import Broker, broker


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://host", Broker(host="host", port=1883, tls=False)),
        ("mqtt://host:99", Broker(host="host", port=99, tls=False)),
        ("mqtts://host/", Broker(host="host", port=8883, tls=True)),
        ("mqtt://a%40b@[::1]:5", Broker(host="::1", port=5, tls=False, username="a@b")),
    ],
)
def test_urls(url: str, expected: Broker) -> None:
    assert broker(url) == expected


@pytest.mark.parametrize(
    "url",
    ["host", "http://host", "mqtt://", "mqtt://host:x", "mqtt://host:70000", "mqtt://h/topic"],
)
def test_bad_urls_are_refused(url: str) -> None:
    with pytest.raises(ServiceError):
        broker(url)


def test_password_comes_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("secret\n")
    found = broker("mqtt://me@host", path)
    assert found.password == "secret"
    assert "secret" not in repr(found)
    with pytest.raises(ServiceError, match="user name"):
        broker("mqtt://host", path)
    with pytest.raises(ServiceError, match="missing"):
        broker("mqtt://me@host", tmp_path / "missing")


def test_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ServiceError) as caught:
        broker("mqtt://me:secret@host")
    assert "secret" not in str(caught.value) + caught.value.hint
    assert "--mqtt-password-file" in caught.value.hint

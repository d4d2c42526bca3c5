"""Where the broker is."""

from pathlib import Path

import pytest

from device_runtime.errors import ServiceError
from device_runtime.mqtt.address import Broker, broker


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://host", Broker(host="host", port=1883)),
        ("mqtt://host:99", Broker(host="host", port=99)),
        ("mqtts://host/", Broker(host="host", port=8883, tls=True)),
        ("mqtt://a%40b@[::1]:5", Broker(host="::1", port=5, username="a@b")),
        ("ws://host", Broker(host="host", port=80, path="/mqtt")),
        ("wss://host/a/b", Broker(host="host", port=443, tls=True, path="/a/b")),
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
    found = broker("mqtt://me@host", password_file=path)
    assert found.password() == "secret"
    assert "secret" not in repr(found)
    path.write_text("corrected\n")
    assert found.password() == "corrected"
    with pytest.raises(ServiceError, match="user name"):
        broker("mqtt://host", password_file=path)
    with pytest.raises(ServiceError, match="missing"):
        broker("mqtt://me@host", password_file=tmp_path / "missing")


def test_certificates_are_checked_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(ServiceError, match=r"empty\.pem") as caught:
        broker("mqtts://host", ca_file=tmp_path / "empty.pem")
    assert "PEM" in caught.value.hint
    with pytest.raises(ServiceError, match=r"missing\.pem"):
        broker("mqtts://host", certificate=tmp_path / "missing.pem")
    with pytest.raises(ServiceError, match="require TLS"):
        broker("mqtt://host", ca_file=tmp_path / "empty.pem")
    with pytest.raises(ServiceError, match="requires the certificate"):
        broker("mqtts://host", key=tmp_path / "key.pem")


@pytest.mark.parametrize("host", ["host", "::1"])
@pytest.mark.parametrize("url", ["mqtt://{}:1", "mqtts://{}:1", "ws://{}:1/a", "wss://{}:1/a"])
def test_the_url_is_shown_without_the_user(url: str, host: str) -> None:
    shown = url.format(f"[{host}]" if ":" in host else host)
    assert broker(shown.replace("://", "://me@")).url == shown


def test_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ServiceError) as caught:
        broker("mqtt://me:secret@host")
    assert "secret" not in str(caught.value) + caught.value.hint
    assert "--mqtt-password-file" in caught.value.hint

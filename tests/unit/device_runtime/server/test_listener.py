"""What is needed to serve HTTPS, and how addresses are read."""

import ssl
import subprocess
from pathlib import Path

import pytest

from device_runtime.config.address import host_and_port
from device_runtime.errors import ServiceError
from device_runtime.server.listener import bind, tls_context, url_of
from tests.support.certificates import Certificate, make


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make(tmp_path_factory.mktemp("tls"))


def refusal(certificate: Path | None, key: Path | None) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        tls_context(certificate, key)
    assert caught.value.exit_code == 13
    assert caught.value.hint
    return caught.value


@pytest.mark.requires("openssl")
def test_valid_pair(pair: Certificate) -> None:
    context = tls_context(pair.certificate, pair.key)
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls_context(None, None) is None


@pytest.mark.requires("openssl")
def test_only_one_of_them(pair: Certificate) -> None:
    assert "both" in refusal(pair.certificate, None).hint
    assert "both" in refusal(None, pair.key).hint


@pytest.mark.requires("openssl")
def test_file_that_is_not_there(pair: Certificate, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert f"certificate {nowhere}: No such file" in str(refusal(nowhere, pair.key))
    assert f"private key {nowhere}: No such file" in str(refusal(pair.certificate, nowhere))


@pytest.mark.requires("openssl")
def test_swapped(pair: Certificate) -> None:
    assert "swapped" in refusal(pair.key, pair.certificate).hint


@pytest.mark.requires("openssl")
def test_key_of_another_certificate(pair: Certificate, tmp_path: Path) -> None:
    other = make(tmp_path)
    assert "does not belong" in str(refusal(pair.certificate, other.key))


@pytest.mark.requires("openssl")
def test_encrypted_key_is_refused_without_asking(pair: Certificate, tmp_path: Path) -> None:
    encrypted = tmp_path / "encrypted.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", pair.key, "-aes256", "-passout", "pass:x", "-out", encrypted],
        check=True,
    )
    error = refusal(pair.certificate, encrypted)
    assert "is encrypted" in str(error)
    assert "openssl pkey" in error.hint


@pytest.mark.requires("openssl")
def test_damaged_files(pair: Certificate, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pem"
    damaged.write_bytes(pair.certificate.read_bytes()[:200])
    assert "cannot be used" in str(refusal(damaged, pair.key))
    damaged.write_bytes(pair.key.read_bytes()[:60])
    assert "cannot be used" in str(refusal(pair.certificate, damaged))


def test_url_of_a_listening_socket() -> None:
    with bind("127.0.0.1:0") as bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}"
        assert url_of(bound, tls=True) == f"https://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("box.local:0", ("box.local", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_address(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":80",
        "80",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "host:٨",
        "::1:80",
        "[x]:1",
    ],
)
def test_no_address(address: str) -> None:
    with pytest.raises(ServiceError, match="not an address"):
        host_and_port(address)

"""References: what is accepted, and what is not."""

import pytest

from device_runtime.errors import RegistryError
from device_runtime.update.registry.reference import parse

DIGEST = "sha256:" + "0af1" * 16


@pytest.mark.parametrize(
    ("text", "host", "port", "repository", "tag", "digest"),
    [
        ("oci://registry.example/a:1", "registry.example", None, "a", "1", None),
        ("oci://localhost:5000/a/b-c/d_e:v1.0-rc", "localhost", 5000, "a/b-c/d_e", "v1.0-rc", None),
        (f"oci://10.0.0.1:80/a@{DIGEST}", "10.0.0.1", 80, "a", None, DIGEST),
        (f"oci://[::1]:5000/a:x@{DIGEST}", "::1", 5000, "a", "x", DIGEST),
        ("oci://[fd00::5]/a__b.c---d:_", "fd00::5", None, "a__b.c---d", "_", None),
    ],
)
def test_valid_references(
    text: str, host: str, port: int | None, repository: str, tag: str | None, digest: str | None
) -> None:
    reference = parse(text)
    assert (reference.host, reference.port) == (host, port)
    assert (reference.repository, reference.tag, reference.digest) == (repository, tag, digest)
    assert str(reference) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("https://registry.example/a:1", "not a reference"),
        ("oci://registry.example/a:1\n", "not a reference"),
        ("oci://registry.example/" + "a" * 2000 + ":1", "not a reference"),
        ("oci://registry.example/a", "neither a tag nor a digest"),
        ("oci://registry.example", "name of a repository"),
        ("oci:///a:1", "is not a host"),
        ("oci://-a/b:1", "is not a host"),
        ("oci://a..b/c:1", "is not a host"),
        ("oci://[::1/a:1", "is not a host"),
        ("oci://[::1]x/a:1", "is not a host"),
        ("oci://[fe80::1%eth0]/a:1", "is not a host"),
        ("oci://host:0/a:1", "is not a port"),
        ("oci://host:65536/a:1", "is not a port"),
        ("oci://host:/a:1", "is not a port"),
        ("oci://host:٣/a:1", "is not a port"),
        ("oci://host/A:1", "name of a repository"),
        ("oci://host/a/../b:1", "name of a repository"),
        ("oci://host/a//b:1", "name of a repository"),
        ("oci://host/a%2fb:1", "name of a repository"),
        ("oci://host/a?b=c:1", "name of a repository"),
        ("oci://host/" + "a" * 255 + ":1", "name of a repository"),
        ("oci://host/a:", "is not a tag"),
        ("oci://host/a:.x", "is not a tag"),
        ("oci://host/a:" + "x" * 129, "is not a tag"),
        ("oci://host/a@sha256:00", "is not a sha256 digest"),
        ("oci://host/a@sha256:" + "G" * 64, "is not a sha256 digest"),
        ("oci://host/a@", "is not a sha256 digest"),
        ("oci://host/a@sha512:" + "0" * 128, "is not a sha256 digest"),
    ],
)
def test_invalid_references(text: str, problem: str) -> None:
    with pytest.raises(RegistryError, match=problem) as caught:
        parse(text)
    assert "oci://HOST" in caught.value.hint


def test_a_password_in_a_reference_is_not_repeated() -> None:
    with pytest.raises(RegistryError) as caught:
        parse("oci://me:secret@registry.example/a:1")
    assert "secret" not in f"{caught.value}{caught.value.hint}"

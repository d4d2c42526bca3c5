"""A transfer goes on where it was cut, and nothing damaged stays."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_runtime.bundle.folder import BundleFolder
from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.bundle.source import nothing_shared
from device_runtime.errors import BundleError, InstallError, ResourceError
from device_runtime.update import incoming
from device_runtime.update.incoming import Head, Lacking, Received
from device_runtime.update.install import install
from tests.support.bundles import PROGRAM, Draft, draft
from tests.support.commands import edgepack_runtime, refused
from tests.support.targets import ELF_X86_64, make_root


def head(bundle: Draft) -> bytes:
    parts = dict(bundle.members())
    files = parts["manifest.json"], parts["manifest.sig"], parts["sbom.cdx.json"]
    lengths = Head(manifest=len(files[0]), signature=len(files[1]), sbom=len(files[2]))
    return msgspec.json.encode(lengths) + b"\n" + b"".join(files)


def receive(folder: Path, data: bytes, **options: Any) -> list[Any]:
    """Receive a stream; returns the answers."""
    answers: list[Any] = []
    incoming.receive(folder, io.BytesIO(data), answers.append, nothing_shared, **options)
    return answers


def rest(bundle: Draft, lacking: Lacking) -> bytes:
    return b"".join(bundle.blobs[blob.sha256][blob.present :] for blob in lacking.missing)


def lacking(bundle: Draft, folder: Path) -> Lacking:
    (answer,) = receive(folder, head(bundle), dry_run=True)
    assert isinstance(answer, Lacking)
    return answer


def test_whole_transfer_can_be_installed(tmp_path: Path) -> None:
    bundle, folder = draft(), tmp_path / "deep/er"
    missing = lacking(bundle, folder)
    assert not folder.exists()
    assert len(missing.missing) == len(bundle.blobs)
    answers = receive(folder, head(bundle) + rest(bundle, missing))
    assert answers == [missing, Received(damaged=())]
    BundleFolder(folder).verify()
    assert lacking(bundle, folder).missing == ()
    root = make_root(tmp_path / "root", ELF_X86_64)
    install(folder, root).verify()


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """However often it is cut, what has arrived stays."""
    bundle, folder = draft(), tmp_path / "b"
    start = head(bundle)
    for step in range(200):
        missing = lacking(bundle, folder)
        data = rest(bundle, missing)
        try:
            receive(folder, start + data[: 37 + step])
        except InstallError as error:
            assert "before all data had arrived" in str(error)
            assert len(rest(bundle, lacking(bundle, folder))) == len(data) - 37 - step
        else:
            break
    BundleFolder(folder).verify()


def test_damaged_data_is_named_and_removed(tmp_path: Path) -> None:
    bundle, folder = draft(), tmp_path / "b"
    missing = lacking(bundle, folder)
    data = bytearray(rest(bundle, missing))
    data[0] ^= 1
    _, received = receive(folder, head(bundle) + bytes(data))
    assert received == Received(damaged=(missing.missing[0].sha256,))
    again = lacking(bundle, folder)
    assert again.missing == missing.missing[:1]
    receive(folder, head(bundle) + rest(bundle, again))
    BundleFolder(folder).verify()


@pytest.mark.parametrize("content", [b"", b"x" * 20_000])
def test_part_with_wrong_content_does_not_stay(tmp_path: Path, content: bytes) -> None:
    bundle, folder = draft(), tmp_path / "b"
    blob = next(iter(bundle.manifest.blobs.values()))
    part = folder / "blobs/sha256" / (blob.sha256 + incoming.PART)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    for _ in range(2):
        missing = lacking(bundle, folder)
        receive(folder, head(bundle) + rest(bundle, missing))
    BundleFolder(folder).verify()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"x" * 10_000,
        b'{"manifest":-1,"signature":0,"sbom":0}\n',
        b'{"manifest":99999999999,"signature":0,"sbom":0}\n',
        b'{"manifest":10,"signature":0,"sbom":0}\nshort',
    ],
)
def test_stream_that_is_not_a_transfer(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InstallError):
        receive(tmp_path / "b", data)
    assert not (tmp_path / "b").exists()


def test_manifest_that_is_not_valid(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        receive(tmp_path / "b", b'{"manifest":2,"signature":0,"sbom":0}\n{}')
    assert not (tmp_path / "b").exists()


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "SPARE_BYTES", 1 << 60)
    with pytest.raises(ResourceError, match="MiB free; transfer and installation need"):
        receive(tmp_path / "b", head(draft()))


@pytest.fixture
def with_content(tmp_path: Path) -> Path:
    """A transfer whose program came by other means, and not as a blob."""
    folder = tmp_path / "transfer"
    for path in ("edgepack-runtime", "_internal/copy"):
        file = folder / incoming.CONTENTS / "runtime" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PROGRAM)
    bundle = draft()
    lacks = incoming.lacking(bundle.manifest, folder, incoming.unpacked(folder))
    assert len(lacks) == len(bundle.blobs) - 1
    for name, data in bundle.members()[1:4]:
        (folder / name).write_bytes(data)
    (folder / "blobs/sha256").mkdir(parents=True)
    for blob in lacks:
        (folder / "blobs/sha256" / blob.sha256).write_bytes(bundle.blobs[blob.sha256])
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root", ELF_X86_64)


def test_content_that_came_by_other_means_is_copied(with_content: Path, root: Path) -> None:
    """Its owner may change the file after the installation: a release has no link to it."""
    release = install(with_content, root)
    (with_content / incoming.CONTENTS / RUNTIME_ENTRY).write_bytes(b"changed afterwards")
    release.verify()
    assert release.program.stat().st_nlink == 1
    assert [path.name for path in release.folder.parent.iterdir()] == [release.digest]


@pytest.mark.parametrize("kind", ["other content", "other size", "link", "folder", "nothing"])
def test_content_that_is_not_the_records(
    with_content: Path, root: Path, tmp_path: Path, kind: str
) -> None:
    program = with_content / incoming.CONTENTS / RUNTIME_ENTRY
    program.unlink()
    if kind == "other content":
        program.write_bytes(bytes(len(PROGRAM)))
    elif kind == "other size":
        program.write_bytes(PROGRAM + b" ")
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(PROGRAM)
        program.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        program.mkdir()
    with pytest.raises(BundleError, match="is missing"):
        install(with_content, root)
    assert list((root / "var/lib/edgepack/releases").iterdir()) == []


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    refused(edgepack_runtime("receive", tmp_path / "b"), 8, "not a transfer of a bundle")

"""A bundle is read strictly: whatever is not exactly right is refused, with nothing left behind."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Blob, Record
from device_runtime.bundle.reader import BLOCK, END, open_bundle
from device_runtime.bundle.release import open_release
from device_runtime.errors import BundleError
from tests.support import bundles
from tests.support.bundles import draft, member, tar, with_manifest


def verify(path: Path) -> None:
    with open_bundle(path) as bundle:
        bundle.verify()


def refuse(path: Path, data: bytes, match: str | None = None) -> None:
    """Both ways of reading must refuse; unpacking must not write outside its folder."""
    path.write_bytes(data)
    with pytest.raises(BundleError, match=match) as caught:
        verify(path)
    assert caught.value.hint
    folder = path.with_suffix(".out")
    folder.mkdir()
    before = sorted(str(p) for p in path.parent.rglob("*") if folder not in p.parents)
    with pytest.raises(BundleError, match=match), open_bundle(path) as bundle:
        bundle.unpack(folder)
    after = sorted(str(p) for p in path.parent.rglob("*") if folder not in p.parents)
    assert after == before


def test_unpacked_release_is_what_the_manifest_says(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "b.epk")
    verify(path)
    folder = tmp_path / "release"
    folder.mkdir()
    with open_bundle(path) as bundle:
        release = bundle.unpack(folder)
    release.verify()
    assert open_release(folder) == release
    assert release.program.read_bytes() == bundles.PROGRAM
    assert os.access(release.program, os.X_OK)
    assert (folder / "runtime/_internal/link").resolve() == release.program.resolve()
    assert (folder / "runtime/_internal/copy").stat().st_mode & 0o777 == 0o644
    assert (folder / "model/empty").read_bytes() == b""


def test_is_a_plain_tar_for_other_programs(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "b.epk")
    with tarfile.open(path, "r:") as archive:
        names = archive.getnames()
    assert names[:4] == ["edgepack-bundle", "manifest.json", "manifest.sig", "sbom.cdx.json"]
    assert all(name.startswith("blobs/sha256/") for name in names[4:])


def test_cut_anywhere(tmp_path: Path) -> None:
    data = tar(draft().members())
    for number in range(20):
        refuse(tmp_path / f"{number}.epk", data[: len(data) * number // 20])
    refuse(tmp_path / "last.epk", data[:-1])


def test_any_flipped_byte(tmp_path: Path) -> None:
    """Every byte counts: headers, padding, content, end."""
    data = tar(draft().members())
    path = tmp_path / "b.epk"
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            with open_bundle(path) as bundle:
                digest = bundle.digest
                bundle.verify()
        except BundleError:
            continue
        # A change inside the manifest may leave a valid one; it is then another bundle.
        assert digest != open_bundle_digest(tmp_path, data), position


def open_bundle_digest(folder: Path, data: bytes) -> str:
    path = folder / "good.epk"
    path.write_bytes(data)
    with open_bundle(path) as bundle:
        return bundle.digest


def test_data_behind_the_end(tmp_path: Path) -> None:
    refuse(tmp_path / "b.epk", tar(draft().members()) + b"x", "after the end")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    refuse(tmp_path / "b.epk", b"PK\x03\x04" + bytes(2000), "not an edgepack bundle")
    with pytest.raises(BundleError, match="cannot be opened"):
        verify(tmp_path / "missing.epk")


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/evil", "model/../../evil", "model//x", "./x", "", "a\nb", "a\\b"]
)
def test_record_outside_the_release(tmp_path: Path, path: str) -> None:
    content = draft().manifest.records[-1]
    bad = Record(
        path=path,
        component="model",
        mode=0o644,
        size=content.size,
        sha256=content.sha256,
        blob=content.blob,
    )
    refuse(tmp_path / "b.epk", tar(draft().with_records(bad).members()), "plain relative path")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("model/out", "/etc/passwd"),
        ("model/out", "../../etc"),
        ("out", ".."),
        ("model/deep/back", "../.."),
        ("model/through", "deep/back/../.."),
        ("model/empty-target", ""),
    ],
)
def test_link_out_of_the_release(tmp_path: Path, path: str, target: str) -> None:
    bad = Record(path=path, component="model", mode=0o777, link=target)
    refuse(tmp_path / "b.epk", tar(draft().with_records(bad).members()), "links out")


def test_file_below_a_link(tmp_path: Path) -> None:
    first = draft().manifest.records[-1]
    link = Record(path="model/dir", component="model", mode=0o777, link="../runtime")
    below = Record(
        path="model/dir/x",
        component="model",
        mode=0o644,
        size=first.size,
        sha256=first.sha256,
        blob=first.blob,
    )
    refuse(tmp_path / "b.epk", tar(draft().with_records(link, below).members()), "not a folder")


def test_name_twice(tmp_path: Path) -> None:
    again = draft().manifest.records[-1]
    refuse(tmp_path / "b.epk", tar(draft().with_records(again).members()), "is a duplicate")


def test_member_twice(tmp_path: Path) -> None:
    members = draft().members()
    refuse(tmp_path / "b.epk", tar([*members, members[-1]]), "after the end")


def special_member(name: str, kind: bytes, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "header",
    [
        special_member("../evil", tarfile.REGTYPE),
        special_member("/evil", tarfile.REGTYPE),
        special_member("manifest.json", tarfile.CHRTYPE),
        special_member("manifest.json", tarfile.BLKTYPE),
        special_member("manifest.json", tarfile.FIFOTYPE),
        special_member("manifest.json", tarfile.SYMTYPE, "/etc/passwd"),
        special_member("manifest.json", tarfile.LNKTYPE, "../x"),
        special_member("manifest.json", tarfile.DIRTYPE),
        special_member("manifest.json", tarfile.XHDTYPE),
    ],
)
def test_member_of_another_kind(tmp_path: Path, header: bytes) -> None:
    """What an archiver might act on never gets that far: only one header fits each place."""
    (marker, *rest) = draft().members()
    data = member(*marker) + header + b"".join(member(*one) for one in rest) + END
    refuse(tmp_path / "b.epk", data)


def test_unknown_major_version(tmp_path: Path) -> None:
    good = draft()
    members = good.members()
    members[0] = (members[0][0], b"edgepack-bundle 3\n")
    refuse(tmp_path / "marker.epk", tar(members), "format version 3")
    raw = json.loads(schema.encode(good.manifest))
    raw["format"] = 3
    del raw["records"]
    members = with_manifest(good.members(), json.dumps(raw).encode())
    refuse(tmp_path / "manifest.epk", tar(members), "format version 3")


def test_field_of_a_later_minor_version_is_ignored(tmp_path: Path) -> None:
    good = draft()
    raw = json.loads(schema.encode(good.manifest))
    raw["new_field"] = {"anything": 1}
    members = with_manifest(good.members(), json.dumps(raw).encode())
    path = tmp_path / "b.epk"
    path.write_bytes(tar(members))
    verify(path)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": "2"}', b"\xff\xfe", b"null"]
)
def test_manifest_that_is_none(tmp_path: Path, text: bytes) -> None:
    members = with_manifest(draft().members(), text)
    refuse(tmp_path / "b.epk", tar(members), "manifest is not valid")


def test_manifest_of_endless_length(tmp_path: Path) -> None:
    members = draft().members()
    members[1] = (members[1][0], b" " * (schema.MAX_MANIFEST_BYTES + 1))
    refuse(tmp_path / "b.epk", tar(members), "larger than")


def test_decompression_bomb_stops_at_the_declared_size(tmp_path: Path) -> None:
    import zstandard

    good = draft()
    bomb = zstandard.compress(bytes(1 << 24))
    blob = Blob(sha256=bundles.digest(bomb), size=len(bomb), compression="zstd")
    good.blobs[blob.sha256] = bomb
    bad = Record(
        path="model/bomb",
        component="model",
        mode=0o644,
        size=100,
        sha256=bundles.digest(bytes(100)),
        blob=blob,
    )
    path = tmp_path / "b.epk"
    refuse(path, tar(good.with_records(bad).members()), "model/bomb is damaged")
    assert (path.with_suffix(".out") / "model/bomb").stat().st_size <= 100


def test_problems_are_named_together(tmp_path: Path) -> None:
    one, two = (
        Record(path=path, component="model", mode=0o777, link="/etc") for path in ("a", "model/b")
    )
    path = draft().with_records(one, two).write(tmp_path / "b.epk")
    with pytest.raises(BundleError) as caught:
        verify(path)
    message = str(caught.value)
    assert "'a' is neither below runtime/ nor below model/" in message
    assert "'a' links out of the release" in message
    assert "'model/b' links out of the release" in message


def test_release_names_all_that_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    with open_bundle(draft().write(tmp_path / "b.epk")) as bundle:
        release = bundle.unpack(folder)
    (folder / "model/empty").unlink()
    (folder / "model/tokenizer.json").write_bytes(b"[]" * 500)
    (folder / "model/extra").write_bytes(b"")
    release.program.chmod(0o700)
    (folder / "runtime/_internal/link").unlink()
    (folder / "runtime/_internal/link").symlink_to("/etc/passwd")
    (folder / "outside").symlink_to("/etc")
    with pytest.raises(BundleError) as caught:
        release.verify()
    for word in ("empty", "tokenizer.json has changed", "extra", "mode", "not a link", "outside"):
        assert word in str(caught.value)


def test_header_is_the_one_tarfile_writes_for_the_same_member() -> None:
    header = tarfile.TarInfo.frombuf(member(*draft().members()[0])[:BLOCK], "ascii", "strict")
    assert (header.name, header.mode, header.uid, header.mtime) == ("edgepack-bundle", 0o644, 0, 0)


def test_manifest_of_an_earlier_build_lacks_the_newer_figures() -> None:
    raw = json.loads(schema.encode(draft().manifest))
    del raw["quantization"]["tasks"], raw["quantization"]["tokenizer"]
    raw["quantization"]["quality"] = {
        **{"kl": 0.1, "kl_interval": [0.1, 0.1], "top1": 0.9, "top1_interval": [0.9, 0.9]},
        **{"perplexity": 9.0, "reference_perplexity": 9.0, "tokens": 10},
    }
    raw["quantization"]["tried"] = [
        {"recipe": "r", "model_bytes": 1, "memory_bytes": 1, "quality": None, "exceeded": []}
    ]
    facts = schema.decode(json.dumps(raw).encode()).quantization
    assert facts.quality is not None
    assert (facts.quality.kl_tail, facts.quality.kl_max, facts.quality.tasks) == (None, None, None)
    assert (facts.tasks, facts.tried[0].excused, facts.tokenizer) == ((), (), None)

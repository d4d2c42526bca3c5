"""Settings for a device: read from the user's file, written to the device's root."""

import os
from pathlib import Path
from typing import Any

import pytest

from device_runtime.config import api_key, sources
from device_runtime.errors import InstallError
from device_runtime.server import api_keys
from device_runtime.update import first_boot as device
from device_runtime.update.first_boot import FirstBoot
from device_runtime.update.target import Target
from packager.errors import FlashError
from packager.flash import first_boot
from tests.support.bundles import draft
from tests.support.commands import edgepack, refused
from tests.support.targets import ELF_X86_64, make_root

KEY = "sk-edgepack-" + "Aa0_-" * 8


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root", ELF_X86_64)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "kitchen.toml"
    file.write_text(text)
    return file


def test_flash_writes_what_the_service_reads(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pa ss\n")
    (tmp_path / "key").write_text(KEY + "\n")
    config = write(
        tmp_path,
        'listen = "0.0.0.0:80"\ndevice_id = "kitchen"\nmqtt = "mqtt://me@broker"\n'
        'cors_origins = ["https://a.example"]\nlog_format = "json"\nrequest_timeout = 5.5\n'
        'mqtt_password_file = "secret"\napi_key_file = "key"\n',
    )
    bundle = draft().write(tmp_path / "b.epk")
    assert edgepack("flash", bundle, root, "--config", config, "--dry-run").status == 0
    assert not (root / "etc/edgepack/runtime.toml").exists()
    outcome = edgepack("flash", bundle, root, "--config", config)
    assert outcome.status == 0, outcome.err
    resolved = sources.resolve(None, file=root / "etc/edgepack/runtime.toml", environment={})
    assert resolved.config.device_id == "kitchen"
    assert resolved.config.cors_origins == ("https://a.example",)
    assert str(resolved.config.mqtt_password_file) == (
        "/run/credentials/edgepack.service/mqtt-password"
    )
    assert str(resolved.config.api_keys_file) == "/etc/edgepack/api-keys"
    assert api_keys.KeyRing(root / "etc/edgepack/api-keys").name_of(KEY) == "flash"
    drop_in = root / "etc/systemd/system/edgepack.service.d/10-edgepack-credentials.conf"
    assert "LoadCredential=mqtt-password:/etc/edgepack/secrets/mqtt-password" in drop_in.read_text()
    everything = "".join(p.read_text() for p in (root / "etc").rglob("*.*") if p.is_file())
    assert KEY not in everything
    assert "pa ss" not in everything + outcome.out + outcome.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen = 'nowhere'", "is not an address to listen on"),
        ("threads = -1", "threads: must be a whole number"),
        ("treads = 2", "did you mean threads?"),
        ("device_id = 'a b'", "must be 1 to 64 letters"),
        ("mqtt = 'mqtt://me:pw@broker'", "must not contain a password"),
        ("tls_key = 'key.pem'", "is a path on the device"),
        ("mqtt_password = 'x'", "requires mqtt"),
        ("mqtt = 'mqtt://me@b'\nmqtt_password = 'x'\nmqtt_password_file = 'x'", "set either"),
        ("mqtt = 'mqtt://me@b'\nmqtt_password = 3", "one line of printable"),
        ("mqtt = 'mqtt://me@b'\nmqtt_password_file = 'missing'", "No such file"),
        ("mqtt = 'mqtt://me@b'\nmqtt_password_file = 3", "not the path of a text file"),
        ("api_key = 'short-s3cret'", "32 or more random characters"),
        (f"api_key = '{KEY}'\napi_keys_file = '/x'", "set either api_keys_file or"),
        ("= 1", "is not valid TOML"),
    ],
)
def test_invalid_settings(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(FlashError, match=problem.replace("?", r"\?")) as caught:
        first_boot.read(write(tmp_path, text))
    assert caught.value.hint
    assert "s3cret" not in str(caught.value)


def test_all_problems_at_once_and_no_traceback(tmp_path: Path, root: Path) -> None:
    config = write(tmp_path, "threads = -1\ntreads = 2\n")
    bundle = draft().write(tmp_path / "b.epk")
    outcome = edgepack("flash", bundle, root, "--config", config)
    refused(outcome, 8, "threads: must be", "unknown key 'treads'")
    assert not (root / "var").exists()


def test_characters_that_toml_writes_otherwise(root: Path, tmp_path: Path) -> None:
    name = '/a "b" \\ \x7f \t é 😀'
    file = tmp_path / "x.toml"
    table = {"system_prompt_file": name}
    file.write_text(first_boot._toml(table))
    assert sources.table(file, must_exist=True) == table


def test_settings_that_are_replaced_stay_beside_them(root: Path) -> None:
    target = Target(root)
    assert device.write(target, FirstBoot(config="a"))
    assert not device.write(target, FirstBoot(config="a"))
    folder = root / "etc/edgepack"
    assert not (folder / "runtime.toml.old").exists()
    assert device.write(target, FirstBoot(config="b"))
    assert (folder / "runtime.toml").read_text() == "b"
    assert (folder / "runtime.toml.old").read_text() == "a"
    (folder / "runtime.toml").unlink()
    (folder / "runtime.toml").symlink_to("elsewhere")
    assert device.write(target, FirstBoot(config="c"))
    assert (folder / "runtime.toml").read_text() == "c"
    assert str((folder / "runtime.toml.old").readlink()) == "elsewhere"


def test_device_has_settings_at_every_moment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(root)
    device.write(target, FirstBoot(config="a"))
    file = root / "etc/edgepack/runtime.toml"
    seen = []
    rename = os.rename

    def watched(*arguments: Any, **options: Any) -> None:
        seen.append(file.read_text())
        rename(*arguments, **options)
        seen.append(file.read_text())

    monkeypatch.setattr(os, "rename", watched)
    device.write(target, FirstBoot(config="b"))
    assert seen == ["a", "a", "a", "b"]


def test_api_keys_of_the_device_stay(root: Path) -> None:
    keys = root / "etc/edgepack/api-keys"
    laptop = api_keys.create(keys, "laptop")
    keys.chmod(0o644)
    for key in ("x" * 40, "y" * 40, "y" * 40):
        entry = api_key.entry("flash", key)
        device.write(Target(root), FirstBoot(api_key=entry))
    ring = api_keys.KeyRing(keys)
    assert [ring.name_of(key) for key in (laptop, "x" * 40, "y" * 40)] == ["laptop", None, "flash"]


@pytest.mark.parametrize("content", [b"\n" * (1 << 20) + b"a", b"\xff"])
def test_file_of_api_keys_that_cannot_be_understood_stays(root: Path, content: bytes) -> None:
    keys = root / "etc/edgepack/api-keys"
    keys.write_bytes(content)
    with pytest.raises(InstallError, match="api-keys cannot be read"):
        device.write(Target(root), FirstBoot(api_key=api_key.entry("flash", KEY)))
    assert keys.read_bytes() == content


def test_giant_file_on_a_card_is_not_read(root: Path) -> None:
    file = root / "etc/edgepack/runtime.toml"
    with file.open("wb") as opened:
        opened.truncate(64 << 20)
    device.write(Target(root), FirstBoot(config="a"))
    assert file.read_text() == "a"
    assert file.with_name("runtime.toml.old").stat().st_blocks == 0


def test_modes_whatever_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        device.write(Target(root), FirstBoot(config="a", mqtt_password="x"))
    finally:
        os.umask(before)
    assert (root / "etc/edgepack/runtime.toml").stat().st_mode & 0o777 == 0o644
    secrets = root / "etc/edgepack/secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert (secrets / "mqtt-password").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("link", ["etc/edgepack", "etc/edgepack/secrets", "etc/edgepack/api-keys"])
def test_links_of_a_card_do_not_lead_into_this_machine(
    root: Path, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "runtime.toml").write_text("mine")
    (root / link).parent.mkdir(exist_ok=True)
    if link == "etc/edgepack":
        for path in (root / link).iterdir():
            path.unlink()
        (root / link).rmdir()
    (root / link).symlink_to(outside)
    settings = FirstBoot(config="a", mqtt_password="x", api_key="flash sha256:1 2026-01-01")
    device.write(Target(root), settings)
    assert [path.name for path in outside.iterdir()] == ["runtime.toml"]
    assert (outside / "runtime.toml").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'{"config": 1}', b"\xff", b'{"api_key": "flash"}'),
        b'{"x": ' + b"[" * 99_999,
    ],
)
def test_settings_that_arrived_damaged(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(content)
    with pytest.raises(InstallError, match="does not have settings"):
        device.load(file)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(InstallError, match="does not have settings"):
        device.load(tmp_path / "link")

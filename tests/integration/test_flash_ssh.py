"""Flash over SSH, with a real sshd and sudo; the device is a copy of this machine's root."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Draft, draft
from tests.support.commands import edgepack, refused
from tests.support.keys import ed25519_key
from tests.support.ssh_device import (
    PASSWORD,
    USER,
    SshDevice,
    current,
    moved,
    run_until,
    runnable,
    ssh_device,
    with_file,
)

pytestmark = pytest.mark.requires("sshd", "sudo", "unshare", "root")

MB = 1_000_000


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SshDevice]:
    """A device that takes unsigned bundles, with sudo that asks for nothing."""
    with ssh_device(tmp_path / "device") as device:
        yield device


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return runnable().write(tmp_path / "first.epk")


def heavy(size: int, path: str = "model/weights.data", bundle: Draft | None = None) -> Draft:
    """A bundle with a file that does not compress."""
    component = "runtime" if path.startswith("runtime/") else "model"
    return with_file(bundle or runnable(), path, os.urandom(size), component)  # type: ignore[arg-type]


def test_first_installation_then_updates_send_what_is_new(
    device: SshDevice, bundle: Path, tmp_path: Path
) -> None:
    preview = moved(device.flash(bundle, "--dry-run", "--json"))
    assert not device.incoming.exists()
    assert device.current == ""
    first = moved(device.flash(bundle, "--json"))
    assert first == preview
    assert first["runtime"] > 0
    assert first["model"] > 0
    folder = current(device)
    assert list(device.incoming.iterdir()) == []
    assert {path.stat().st_uid for path in folder.rglob("*")} == {0}

    settings = draft().manifest.settings
    changed = runnable().replaced(sequence=2, version="2.0.0", settings=settings)
    second = moved(device.flash(changed.write(tmp_path / "2.epk"), "--json"))
    assert {**second, "other": 0} == {"runtime": 0, "model": 0, "tokenizer": 0, "other": 0}
    assert second["other"] < MB
    runtime = runnable(comment="newer").replaced(sequence=3, version="3.0.0")
    third = moved(device.flash(runtime.write(tmp_path / "3.epk"), "--json"))
    assert third["runtime"] > 0
    assert third["model"] == third["tokenizer"] == 0
    assert current(device) != folder


@pytest.mark.slow
def test_upload_that_is_cut_three_times_goes_on(device: SshDevice, tmp_path: Path) -> None:
    big = heavy(24 * MB, "runtime/_internal/lib.so", heavy(60 * MB))
    path = big.write(tmp_path / "big.epk")
    arrived = []
    for threshold, pattern in ((10, "*.tar.gz"), (15, "*.part"), (40, "*.part")):
        outcome = run_until(device, path, pattern, threshold * MB, device.cut)
        refused(outcome, 8, "is lost", "goes on where this one ended")
        arrived.append(max(part.stat().st_size for part in device.incoming.rglob(pattern)))
        assert device.current == ""
    last = moved(device.flash(path, "--json"))
    assert last["runtime"] == 0
    assert last["model"] <= 60 * MB - arrived[2] + 6000
    assert arrived[1] < arrived[2]
    current(device)
    assert list(device.incoming.iterdir()) == []


def test_interrupt_keeps_what_has_arrived(device: SshDevice, tmp_path: Path) -> None:
    path = heavy(60 * MB).write(tmp_path / "big.epk")
    process: list[subprocess.Popen[str]] = []
    outcome = run_until(
        device, path, "*.part", 10 * MB, lambda: process[0].send_signal(signal.SIGINT), process
    )
    assert outcome.status == 130, outcome.err
    assert "stays in ~/.cache/edgepack/incoming" in outcome.err
    assert device.current == ""
    assert moved(device.flash(path, "--json"))["model"] < 51 * MB


@pytest.mark.slow
def test_damaged_part_is_sent_again(device: SshDevice, tmp_path: Path) -> None:
    path = heavy(40 * MB).write(tmp_path / "big.epk")
    run_until(device, path, "*.part", 10 * MB, device.cut)
    (part,) = device.incoming.rglob("*.part")
    with part.open("r+b") as file:
        file.write(b"damaged")
    outcome = device.flash(path, "--json")
    assert "arrived damaged" in outcome.err
    assert 40 * MB < moved(outcome)["model"] < 75 * MB
    current(device)


def test_damaged_file_of_the_device_is_sent_again(
    device: SshDevice, bundle: Path, tmp_path: Path
) -> None:
    assert device.flash(bundle).status == 0
    weights = device.state / "current/model/model.onnx.data"
    folder = device.state / "releases" / device.current
    weights = folder / "model/model.onnx.data"
    weights.write_bytes(bytes(weights.stat().st_size))
    update = runnable(comment="newer").replaced(sequence=2).write(tmp_path / "2.epk")
    outcome = device.flash(update, "--json")
    assert "sending everything" in outcome.err
    assert moved(outcome)["model"] >= weights.stat().st_size
    assert current(device) != folder


def test_runtime_that_takes_no_transfers_is_replaced(device: SshDevice, bundle: Path) -> None:
    """As version 0.1, or one that does not start."""
    assert device.flash(bundle).status == 0
    program = "/usr/local/bin/edgepack-runtime"
    device.run(f"rm {program}; printf '#!/bin/sh\\nexit 2\\n' >{program}; chmod 755 {program}")
    assert moved(device.flash(bundle, "--dry-run", "--json"))["runtime"] > 0
    outcome = device.flash(bundle, "--json")
    assert "takes no transfers" in outcome.err
    assert moved(outcome)["runtime"] > 0
    device.run(f"{program} --version")
    current(device)


def test_wrong_host_key(device: SshDevice, bundle: Path) -> None:
    device.trust((device.folder / "user_key.pub").read_text())
    outcome = device.flash(bundle)
    refused(outcome, 8, "cannot connect", "Host key verification failed")
    assert not device.incoming.exists()


def test_unknown_host_key(device: SshDevice, bundle: Path) -> None:
    (device.folder / "known_hosts").write_text("")
    refused(device.flash(bundle), 8, "cannot connect", "Host key verification failed")


def test_nobody_listens(device: SshDevice, bundle: Path) -> None:
    device.stop()
    refused(device.flash(bundle), 8, "cannot connect", "Connection refused")


def test_host_without_ssh(device: SshDevice, bundle: Path) -> None:
    (device.bin / "ssh").unlink()
    device.environment["PATH"] = str(device.bin)
    refused(device.flash(bundle), 8, "ssh was not found", "openssh-client")


def test_other_architecture_is_refused_before_anything_moves(
    device: SshDevice, tmp_path: Path
) -> None:
    path = runnable(draft("aarch64")).write(tmp_path / "arm.epk")
    refused(device.flash(path), 8, "the runtime is for aarch64, the device is x86_64")
    assert not device.incoming.exists()


def test_other_board_is_refused_unless_forced(device: SshDevice, tmp_path: Path) -> None:
    other = runnable().replaced(compatible=("nvidia,tegra234",)).write(tmp_path / "other.epk")
    refused(device.flash(other), 8, "is for nvidia,tegra234")
    assert device.flash(other, "--force").status == 0
    current(device)


def test_the_devices_verdict_is_passed_on(device: SshDevice, bundle: Path, tmp_path: Path) -> None:
    newer = runnable().replaced(sequence=7).write(tmp_path / "newer.epk")
    assert device.flash(newer).status == 0
    refused(device.flash(bundle), 8, "older than the installed release", "refused (exit code 8)")
    assert device.flash(bundle, "--allow-downgrade").status == 0


def test_root_needs_no_sudo(device: SshDevice, bundle: Path) -> None:
    assert device.flash(bundle, user="root").status == 0
    current(device)


def test_user_who_may_not_use_sudo(tmp_path: Path, bundle: Path) -> None:
    with ssh_device(tmp_path / "device", sudoers="") as device:
        refused(device.flash(bundle), 8, "asks for a password", "--sudo-password-file")
        secret = tmp_path / "password"
        secret.write_text(PASSWORD + "\n")
        outcome = device.flash(bundle, "--sudo-password-file", secret)
        refused(outcome, 8, "does not take the password", "not in the sudoers file")
        assert not device.incoming.exists()


@pytest.fixture
def with_password(tmp_path: Path) -> Iterator[SshDevice]:
    """A device where sudo needs a password."""
    with ssh_device(tmp_path / "device", sudoers=f"{USER} ALL=(ALL) ALL\n") as device:
        yield device


def test_password_for_sudo_from_a_file(
    with_password: SshDevice, bundle: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    outcome = with_password.flash(bundle, "--sudo-password-file", secret)
    refused(outcome, 8, "does not take the password")
    assert not with_password.incoming.exists()
    secret.write_text(PASSWORD + "\n")
    outcome = with_password.flash(bundle, "--sudo-password-file", secret)
    assert outcome.status == 0, outcome.err
    assert PASSWORD not in outcome.err + outcome.out
    assert PASSWORD not in (with_password.folder / "log").read_text()
    current(with_password)


def test_password_for_sudo_from_the_terminal(with_password: SshDevice, bundle: Path) -> None:
    pid, terminal = os.forkpty()
    if pid == 0:  # pragma: no cover
        command = with_password.command(bundle)
        os.execve(command[0], command, with_password.environment)
    seen = b""
    while b"assword" not in seen:
        seen += os.read(terminal, 4096)
    os.write(terminal, PASSWORD.encode() + b"\n")
    try:
        while chunk := os.read(terminal, 4096):
            seen += chunk
    except OSError:
        pass  # the other end is closed
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, seen.decode()
    assert PASSWORD.encode() not in seen
    current(with_password)


@pytest.mark.slow
def test_disk_that_is_too_small(tmp_path: Path, bundle: Path) -> None:
    with ssh_device(tmp_path / "device", disk="80m") as device:
        big = heavy(100 * MB).write(tmp_path / "big.epk")
        refused(device.flash(big), 9, "MiB free; the transfer needs")
        assert not device.incoming.exists()
        assert device.flash(bundle).status == 0
        update = heavy(60 * MB).replaced(sequence=2).write(tmp_path / "update.epk")
        refused(device.flash(update), 9, "MiB free; transfer and installation need")
        assert current(device)


def test_settings_arrive_with_the_release(device: SshDevice, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret-for-the-broker\n")
    config = tmp_path / "kitchen.toml"
    config.write_text(
        'device_id = "kitchen"\nmqtt = "mqtt://kitchen@broker"\nmqtt_password_file = "password"\n'
    )
    outcome = device.flash(bundle, "--config", config)
    assert outcome.status == 0, outcome.err
    etc = device.upper / "etc"
    assert 'device_id = "kitchen"' in (etc / "edgepack/runtime.toml").read_text()
    secret = etc / "edgepack/secrets/mqtt-password"
    assert secret.read_text() == "s3cret-for-the-broker\n"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    assert "s3cret" not in outcome.out + outcome.err
    assert list(device.incoming.iterdir()) == []
    assert device.flash(bundle).status == 0
    assert 'device_id = "kitchen"' in (etc / "edgepack/runtime.toml").read_text()


def test_device_trusts_the_key_of_the_host_that_flashes_it_first(
    tmp_path: Path, bundle: Path
) -> None:
    with ssh_device(tmp_path / "device", allow_unsigned=False) as device:
        refused(device.flash(bundle), 8, "is not signed")
        refused(device.flash(bundle, "--allow-unsigned"), 8, "decides itself", "update.toml")
        assert device.current == ""
        assert edgepack("sign", bundle).status == 0
        assert device.flash(bundle).status == 0
        assert len(list((device.upper / "etc/edgepack/keys.d").glob("*.pem"))) == 1
        foreign = runnable().replaced(sequence=2).signed(ed25519_key())
        refused(device.flash(foreign.write(tmp_path / "2.epk")), 8, "not trusted")


def test_options_of_other_targets_are_refused(bundle: Path, device: SshDevice) -> None:
    refused(device.flash(bundle, "--grow", "2G"), 8, "--grow is not for a device over SSH")

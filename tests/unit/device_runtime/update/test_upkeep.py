"""The releases on a device: listed, gone back to, shared, collected, purged, uninstalled."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.durable import aside_name
from device_runtime.errors import BundleError, InstallError
from device_runtime.update import switch, upkeep
from device_runtime.update.install import Policy, install
from device_runtime.update.journal import read_history, read_pending
from device_runtime.update.target import Target
from tests.support.bundles import draft
from tests.support.commands import edgepack_runtime
from tests.support.commands import refused as refused_command
from tests.support.disks import overlay, small_disk
from tests.support.targets import ELF_AARCH64, ELF_X86_64, make_root

STATE = "var/lib/edgepack"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root", ELF_X86_64)


def bundle(folder: Path, number: int = 1, **changes: object) -> Path:
    values = {"version": f"{number}.0.0", "sequence": number, **changes}
    return draft().replaced(**values).write(folder / f"{number}.epk")


def commit(root: Path, speed: float | None = None) -> None:
    with Target(root).folder(STATE) as state, switch.alone(state):
        switch.commit(Target(root), state, keep=3, tokens_per_s=speed)


def fail(root: Path, reason: str = "it crashed") -> str:
    with Target(root).folder(STATE) as state, switch.alone(state):
        return switch.roll_back(Target(root), state, reason)


def roles(root: Path) -> dict[str, str]:
    """The versions of the releases by their state."""
    return {item.version: item.state for item in upkeep.listing(root)}


def test_trial_that_succeeds_and_trial_that_fails(root: Path, tmp_path: Path) -> None:
    assert install(bundle(tmp_path), root).on_trial
    commit(root, 8.0)
    first = (root / STATE / "current").resolve()
    bad = install(bundle(tmp_path, 2), root)
    assert roles(root) == {"2.0.0": "on trial", "1.0.0": "previous"}
    assert (root / STATE / "guard").resolve() == first
    assert fail(root, "it hangs") == first.name
    assert roles(root) == {"1.0.0": "current", "2.0.0": "failed"}
    assert not (root / STATE / "previous").is_symlink()
    listed = {item.version: item for item in upkeep.listing(root)}
    assert listed["2.0.0"].reason == "it hangs"
    assert listed["1.0.0"].tokens_per_s == 8.0
    assert bad.digest == listed["2.0.0"].digest


def test_failed_trial_restores_the_release_before_the_one_before(
    root: Path, tmp_path: Path
) -> None:
    for number in (1, 2):
        install(bundle(tmp_path, number), root)
        commit(root)
    install(bundle(tmp_path, 3), root)
    assert roles(root) == {"3.0.0": "on trial", "2.0.0": "previous", "1.0.0": "kept"}
    fail(root)
    assert roles(root) == {"2.0.0": "current", "1.0.0": "previous", "3.0.0": "failed"}


def test_first_release_that_fails_stays_since_there_is_no_other(root: Path, tmp_path: Path) -> None:
    release = install(bundle(tmp_path), root)
    assert fail(root) == release.digest
    assert roles(root) == {"1.0.0": "current"}
    with pytest.raises(InstallError, match="no release is on trial"):
        fail(root)


def test_release_that_failed_twice_is_not_tried_again_unless_forced(
    root: Path, tmp_path: Path
) -> None:
    install(bundle(tmp_path), root)
    commit(root)
    for _ in range(2):
        install(bundle(tmp_path, 2), root)
        fail(root, "it wrote nonsense")
    with pytest.raises(InstallError, match=r"failed 2 times .* it wrote nonsense") as caught:
        install(bundle(tmp_path, 2), root)
    assert "--force" in caught.value.hint
    assert install(bundle(tmp_path, 2), root, policy=Policy(force=True)).on_trial
    commit(root)
    with Target(root).folder(STATE) as state:
        assert read_history(state).failures == ()


def test_update_during_a_trial_keeps_the_way_back_to_a_good_release(
    root: Path, tmp_path: Path
) -> None:
    install(bundle(tmp_path), root)
    commit(root)
    install(bundle(tmp_path, 2), root)
    install(bundle(tmp_path, 3), root)
    assert roles(root) == {"3.0.0": "on trial", "1.0.0": "previous", "2.0.0": "kept"}
    fail(root)
    assert roles(root)["1.0.0"] == "current"


def test_way_back_does_not_lead_to_a_release_that_is_damaged(root: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        install(bundle(tmp_path, number), root)
        commit(root)
    (root / STATE / "current/manifest.json").write_bytes(b"")
    install(bundle(tmp_path, 3), root)
    fail(root)
    assert roles(root)["1.0.0"] == "current"


def test_card_that_was_never_started_can_be_flashed_again(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    install(bundle(tmp_path, 2), root)
    assert roles(root) == {"2.0.0": "on trial", "1.0.0": "previous"}


def test_release_of_a_disabled_service_has_no_trial(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    commit(root)
    (root / "etc/systemd/system/multi-user.target.wants/edgepack.service").unlink()
    release = install(bundle(tmp_path, 2), root)
    assert not release.on_trial
    assert release.notes == ("edgepack.service is disabled and stays so",)


def test_going_back_by_hand_there_and_back_again(root: Path, tmp_path: Path) -> None:
    first = install(bundle(tmp_path), root)
    with pytest.raises(InstallError, match="no previous release"):
        upkeep.go_back(root)
    commit(root)
    second = install(bundle(tmp_path, 2), root)
    assert upkeep.go_back(root).digest == first.digest  # ends the trial
    with Target(root).folder(STATE) as state:
        assert read_pending(state) is None
        assert read_history(state).failures == ()
    with pytest.raises(InstallError, match="no previous release"):
        upkeep.go_back(root)
    install(bundle(tmp_path, 2), root)
    commit(root)
    for release in (first, second, first):
        assert upkeep.go_back(root).digest == release.digest
        assert (root / STATE / "current").resolve().name == release.digest


def test_damaged_release_is_not_gone_back_to(root: Path, tmp_path: Path) -> None:
    first = install(bundle(tmp_path), root)
    commit(root)
    install(bundle(tmp_path, 2), root)
    commit(root)
    (first.folder / "model/tokenizer.json").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        upkeep.go_back(root)
    assert roles(root)["2.0.0"] == "current"


def test_update_of_the_runtime_stores_only_the_runtime(root: Path, tmp_path: Path) -> None:
    first = install(bundle(tmp_path), root)
    second = install(bundle(tmp_path, 2), root)
    for record in second.manifest.records:
        if record.link is None:
            assert (second.folder / record.path).samefile(first.folder / record.path)
    (first.folder / "model/tokenizer.json").chmod(0o600)
    third = install(bundle(tmp_path, 3), root)
    assert not (third.folder / "model/tokenizer.json").samefile(
        second.folder / "model/tokenizer.json"
    )
    third.verify()


def test_gc_removes_what_nothing_needs(root: Path, tmp_path: Path) -> None:
    for number in range(1, 4):
        install(bundle(tmp_path, number), root)
        commit(root)
    state = root / STATE
    leftovers = [
        state / aside_name("current"),
        state / aside_name("pending.json"),
        state / "pending.json.corrupt",
        state / "releases" / aside_name("a" * 64),
        root / "usr/local/bin" / aside_name("edgepack-runtime"),
        root / "etc/edgepack" / aside_name("runtime.toml"),
        root / "etc/systemd/system" / aside_name("edgepack.service"),
        root / "etc/systemd/system/multi-user.target.wants" / aside_name("edgepack-guard.service"),
    ]
    for path in leftovers:
        path.write_text("")
    (state / "incoming" / ("a" * 64)).mkdir(parents=True)
    (state / "releases" / ("b" * 64)).mkdir()
    mine = [state / ".mine", state / "releases/.DS_Store", root / "etc/systemd/system/.x.service"]
    for path in mine:
        path.write_text("")
    assert upkeep.collect(root) == ["b" * 64]
    assert not any(path.exists() for path in leftovers)
    assert not (state / "incoming").exists()
    assert all(path.exists() for path in mine)
    assert roles(root) == {"3.0.0": "current", "2.0.0": "previous", "1.0.0": "kept"}


def test_device_keeps_as_many_releases_as_its_rules_say(root: Path, tmp_path: Path) -> None:
    rules = root / "etc/edgepack/update.toml"
    rules.write_text("allow_unsigned = true\nkeep_releases = 2\n")
    for number in (1, 2, 3):
        install(bundle(tmp_path, number), root)
        commit(root)
    install(bundle(tmp_path, 3), root)
    assert sorted(roles(root)) == ["2.0.0", "3.0.0"]
    install(bundle(tmp_path, 4), root)
    commit(root)
    rules.write_text("allow_unsigned = true\n")
    assert upkeep.collect(root) == []
    rules.write_text("keep_releases = 0\n")
    refused_command(edgepack_runtime("gc", "--root", root), 8, "update.toml is not valid")


@pytest.mark.requires("root")
def test_update_of_a_release_in_a_layer_that_cannot_be_changed(root: Path, tmp_path: Path) -> None:
    """A container's image has releases: they cannot be renamed, but hidden."""
    for number in (1, 2, 3):
        install(bundle(tmp_path, number), root)
        commit(root)
    with small_disk(tmp_path / "disk", "200m") as disk, overlay(disk / "layer", root) as merged:
        install(bundle(tmp_path, 4), merged)
        commit(merged)
        assert sorted(roles(merged)) == ["2.0.0", "3.0.0", "4.0.0"]
        assert upkeep.go_back(merged).manifest.version == "3.0.0"


def test_purge_of_one_release(root: Path, tmp_path: Path) -> None:
    first = install(bundle(tmp_path), root)
    commit(root)
    for number in (2, 3):
        install(bundle(tmp_path, number), root)
        commit(root)
    with pytest.raises(InstallError, match="in use"):
        upkeep.purge(root, (root / STATE / "previous").resolve().name)
    with pytest.raises(InstallError, match="no releases have a digest"):
        upkeep.purge(root, "0" * 64)
    with pytest.raises(InstallError, match="3 releases have a digest"):
        upkeep.purge(root, "")
    assert upkeep.purge(root, first.digest[:10]) == first.digest
    assert roles(root) == {"3.0.0": "current", "2.0.0": "previous"}


def test_purge_of_everything_leaves_the_configuration_and_others_files(
    root: Path, tmp_path: Path
) -> None:
    before = sorted(root.rglob("*"))
    install(bundle(tmp_path), root)
    kept = [root / "etc/edgepack/runtime.toml", root / STATE / "mine"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    assert upkeep.uninstall(root) == [f"/{STATE}/mine stays: others have put files there"]
    assert all(path.exists() for path in kept)
    files = [path for path in root.rglob("*") if not path.is_dir() or path.is_symlink()]
    assert set(files) - set(before) == set(kept)
    install(bundle(tmp_path), root)
    kept[1].unlink()
    assert upkeep.uninstall(root) == []
    assert not (root / STATE).exists()
    with pytest.raises(InstallError, match="nothing is installed"):
        upkeep.uninstall(root)


def test_purge_of_everything_leaves_an_edited_unit_disabled(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    unit = root / "etc/systemd/system/edgepack.service"
    unit.write_text(unit.read_text() + "# mine\n")
    assert upkeep.uninstall(root)[0].startswith("edgepack.service was edited")
    assert unit.exists()
    assert list((unit.parent / "multi-user.target.wants").iterdir()) == []


def test_odd_holds_hold_and_show_nothing(root: Path, tmp_path: Path) -> None:
    """The service, which is less trusted than the installer, can put a link there."""
    secret = root / "etc/shadow"
    secret.write_text("root:hash")
    held = root / "run/edgepack/hold"
    held.parent.mkdir(parents=True)
    odd: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: held.symlink_to("/etc/shadow"), held.unlink),
        (held.mkdir, held.rmdir),
        (lambda: os.mkfifo(held), held.unlink),
    ]
    for put, remove in odd:
        put()
        with pytest.raises(InstallError, match="installations: /run/edgepack/hold ") as caught:
            install(bundle(tmp_path), root)
        assert "hash" not in str(caught.value)
        remove()
    install(bundle(tmp_path), root)


def test_hold_is_respected_with_its_reason(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    (root / "etc/edgepack").mkdir(exist_ok=True)
    (root / "etc/edgepack/hold").write_text("a customer is being served\x1b[31m\nuntil noon\n")
    with pytest.raises(InstallError, match="holds installations: a customer is being served") as e:
        install(bundle(tmp_path, 2), root)
    assert "\x1b" not in str(e.value)
    (root / "etc/edgepack/hold").write_text("")
    with pytest.raises(InstallError, match="no reason given"):
        install(bundle(tmp_path, 2), root)
    (root / "etc/edgepack/hold").unlink()
    install(bundle(tmp_path, 2), root)


def test_second_installer_is_refused(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    with (
        Target(root).folder(STATE) as state,
        switch.alone(state),
        pytest.raises(InstallError, match="another installation is running"),
    ):
        install(bundle(tmp_path, 2), root)


def test_processor_and_memory_of_a_running_system(root: Path, tmp_path: Path) -> None:
    kit = draft().manifest.kit
    assert kit is not None
    import msgspec

    needs = bundle(
        tmp_path, kit=msgspec.structs.replace(kit, cpu=("avx2", "bmi2")), memory_bytes=2 << 30
    )
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\n")
    with pytest.raises(InstallError, match=r"needs a processor with avx2, bmi2; .* lacks bmi2"):
        install(needs, root)
    (root / "proc/cpuinfo").write_text("processor : 0\nflags : fpu avx2 bmi2\n")
    (root / "proc/meminfo").write_text("MemTotal: 1048576 kB\nMemAvailable: 1 kB\n")
    with pytest.raises(InstallError, match="needs 2048 MiB of memory, the device has 1024"):
        install(needs, root)
    (root / "proc/meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 1 kB\n")
    install(needs, root)


def test_processor_of_the_machine_below_an_emulator_is_not_the_devices(tmp_path: Path) -> None:
    root = make_root(tmp_path / "arm64", ELF_AARCH64)
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2\n")
    assert Target(root).processor is None
    (root / "proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert Target(root).processor == frozenset({"fp", "asimd"})


def test_commands(root: Path, tmp_path: Path) -> None:
    assert json.loads(edgepack_runtime("releases", "--root", root, "--json").out) == []
    refused_command(edgepack_runtime("gc", "--root", root), 8, "nothing is installed")
    for number in (1, 2):
        done = edgepack_runtime("install", bundle(tmp_path, number), "--root", root, "--json")
        assert json.loads(done.out)["on_trial"]
        commit(root, 4.25)
    listed = edgepack_runtime("releases", "--root", root).out.splitlines()
    assert listed[0].startswith("current ")
    assert "tiny-cpu 2.0.0 (" in listed[0]
    assert "4.2 tokens/s" in listed[0]
    assert listed[1].startswith("previous ")
    assert "1.0.0 is current again" in edgepack_runtime("rollback", "--root", root).out
    done = edgepack_runtime("releases", "--root", root, "--json")
    assert [item["state"] for item in json.loads(done.out)] == ["current", "previous"]
    assert "removed: none" in edgepack_runtime("gc", "--root", root).out
    done = edgepack_runtime("purge", "--root", root)
    assert (done.status, "either a DIGEST or --all" in done.err) == (2, True)
    refused_command(edgepack_runtime("purge", "ff" * 32, "--root", root), 8, "no releases have")
    assert "is uninstalled" in edgepack_runtime("purge", "--all", "--root", root).out
    assert not (root / STATE).exists()


def test_listing_needs_no_permission_to_write(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    before = sorted((path, path.lstat().st_ctime_ns) for path in root.rglob("*"))
    upkeep.listing(root)
    assert sorted((path, path.lstat().st_ctime_ns) for path in root.rglob("*")) == before

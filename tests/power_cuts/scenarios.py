"""The changes to a device that may be interrupted, and the checks after it starts again."""

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from device_runtime import cli
from device_runtime.bundle.manifest import Blob, Record
from device_runtime.bundle.release import open_release
from device_runtime.durable import aside_name
from device_runtime.update import links, switch, upkeep
from device_runtime.update.install import install
from device_runtime.update.journal import HISTORY, read_pending
from device_runtime.update.links import STATE
from device_runtime.update.target import Target
from packager.diff import diff
from tests.support.bundles import Draft, digest, draft
from tests.support.keys import ed25519_key, p256_key
from tests.support.targets import ELF_X86_64, make_root

REASON = "it crashed"


@dataclass(frozen=True)
class Scenario:
    """A change to a device.

    Attributes:
        name: its name.
        before: versions of the releases that are installed and found good before it, in order.
        prepare: does what else comes before it, to a root.
        change: makes the change to a root, and returns an exit status.
        current: versions that may be current whenever it is interrupted; 0 for none.
        after: version that is current at the end; 0 for none.
        good: whether the guard finds the release on trial good.
        repeats: whether it has the same effect when it is repeated.
        by_guard: whether the guard makes it, else a command.
    """

    name: str
    before: tuple[int, ...]
    prepare: Callable[[Path, Path], None]
    change: Callable[[Path, Path], int]
    current: tuple[int, ...]
    after: int
    good: bool = True
    repeats: bool = True
    by_guard: bool = False


def command(*arguments: str) -> Callable[[Path, Path], int]:
    """A change by the device's own command."""

    def change(bundles: Path, root: Path) -> int:
        words = [word.replace("BUNDLES", str(bundles)) for word in arguments]
        sys.argv = [cli.PROGRAM, *words, "--root", str(root)]
        return cli.main()

    return change


def nothing(_bundles: Path, _root: Path) -> None:
    """Prepare nothing."""


def put_on_trial(bundles: Path, root: Path) -> None:
    """Install version 4."""
    install(bundles / "4.epk", root)


def make_update(bundles: Path, _root: Path) -> None:
    """Make the update from version 3 to version 4."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()):
        patch.setenv("EDGEPACK_CACHE", str(bundles / "cache"))
        difference = diff(bundles / "3.epk", bundles / "4.epk", bundles / "update.epk")
    assert difference.delta.held
    assert difference.delta.patches


def damage(_bundles: Path, root: Path) -> None:
    """Damage the current release: empty a file, close another to the service, remove a third."""
    folder = root / STATE / "current"
    (folder / "model/tokenizer.json").unlink()
    (folder / "model/tokenizer.json").write_bytes(b"")
    (folder / "manifest.sig").chmod(0o600)
    (folder / "model/model.onnx.data").unlink()


def litter(_bundles: Path, root: Path) -> None:
    """Leave what interrupted installations and transfers leave."""
    state = root / STATE
    partial = state / "releases" / aside_name("a" * 64)
    for folder in (partial, state / "releases" / ("b" * 64), state / "incoming" / ("c" * 64)):
        (folder / "model").mkdir(parents=True)
        (folder / "model/file").write_text("text")
    for path in (
        state / aside_name("current"),
        state / "history.json.corrupt",
        root / "etc/systemd/system" / aside_name("edgepack.service"),
        root / "usr/local/bin" / aside_name("edgepack-runtime"),
    ):
        path.symlink_to("nowhere")


def commit(_bundles: Path, root: Path) -> int:
    """End the trial as the guard does for a good release."""
    with Target(root).folder(STATE) as state, switch.alone(state):
        switch.recover(Target(root), state)
        switch.commit(Target(root), state, keep=3)
    return 0


def roll_back(_bundles: Path, root: Path) -> int:
    """End the trial as the guard does for a bad release."""
    with Target(root).folder(STATE) as state, switch.alone(state):
        switch.recover(Target(root), state)
        if read_pending(state) is not None:
            switch.roll_back(Target(root), state, REASON)
    return 0


KEYS = (ed25519_key(), p256_key())
FIRST = ("install", "BUNDLES/1.epk", "--key", "BUNDLES/0.pem", "--key", "BUNDLES/1.pem")
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("first", (), nothing, command(*FIRST), (0, 1), 1),
        Scenario("update", (1, 2, 3), nothing, command("install", "BUNDLES/4.epk"), (3, 4), 4),
        Scenario(
            "delta", (1, 2, 3), make_update, command("install", "BUNDLES/update.epk"), (3, 4), 4
        ),
        Scenario("repair", (2, 3), damage, command("install", "BUNDLES/3.epk"), (3,), 3),
        Scenario("commit", (1, 2, 3), put_on_trial, commit, (4,), 4, by_guard=True),
        Scenario(
            "roll back", (1, 2, 3), put_on_trial, roll_back, (3, 4), 3, good=False, by_guard=True
        ),
        Scenario("rollback", (1, 2, 3), nothing, command("rollback"), (3, 2), 2, repeats=False),
        Scenario("gc", (1, 2, 3), litter, command("gc"), (3,), 3),
        Scenario("purge", (1, 2, 3), litter, command("purge", "--all"), (3, 0), 0),
    )
}


def version(number: int) -> Draft:
    """A signed bundle that shares all but one file with the others."""
    data = b"%d\n" % number * 3000
    blob = Blob(sha256=digest(data), size=len(data))
    record = Record(
        path="model/weights",
        component="model",
        mode=0o644,
        size=blob.size,
        sha256=blob.sha256,
        blob=blob,
    )
    bundle = draft().replaced(version=f"{number}.0.0", sequence=number).with_records(record)
    return replace(bundle, blobs=bundle.blobs | {blob.sha256: data}).signed(*KEYS)


class Device:
    """A device before a scenario, as often as it is wanted.

    Attributes:
        scenario: the scenario.
        root: its root file system.
    """

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.scenario = scenario
        self.root = folder / "root"
        self._bundles = folder
        self._start = folder / "start"
        self._versions = {0: ""}
        for number, key in enumerate(KEYS):
            (folder / f"{number}.pem").write_bytes(key.pem)
        for number in range(1, 5):
            path = version(number).write(folder / f"{number}.epk")
            scratch = make_root(folder / f"scratch-{number}", ELF_X86_64)
            self._versions[number] = install(path, scratch).digest
        make_root(self._start, ELF_X86_64)
        for number in scenario.before:
            install(folder / f"{number}.epk", self._start)
            commit(folder, self._start)
        scenario.prepare(folder, self._start)
        self.reset()
        self.quietly_change()
        self._finish()
        self._end = folder / "end"
        copy(self.root, self._end)

    def reset(self, start: Path | None = None) -> None:
        """Make the root what it is before the change, or a copy of another one."""
        copy(start or self._start, self.root)

    def change(self) -> int:
        """Make the change, and return its exit status."""
        return self.scenario.change(self._bundles, self.root)

    def quietly_change(self) -> None:
        """Make the change; it must succeed."""
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            status = self.change()
        # A purge that has been completed finds nothing more to do.
        assert status == 0 or "nothing is installed" in output.getvalue(), output.getvalue()

    def start(self, *, repairing: bool = False) -> None:
        """Check what the device starts with, and end a trial as the guard does then.

        Args:
            repairing: the current release may still be the damaged one.
        """
        state = self.root / STATE
        self._check_current(repairing=repairing)
        if state.is_dir():
            (commit if self.scenario.good else roll_back)(self._bundles, self.root)
            self._check_current(repairing=repairing)

    def converge(self, *, shared: bool = True) -> None:
        """Repeat the change, collect, and check that it is as if nothing had been interrupted.

        Args:
            shared: whether releases must share the files that they can share.
        """
        if self.scenario.repeats or not self.is_done:
            self.quietly_change()
        self._finish()
        assert self.is_done
        end, wanted = (tree(root, shared=shared) for root in (self.root, self._end))
        different = {path for path in {*end, *wanted} if end.get(path) != wanted.get(path)}
        if not self.scenario.good:
            different.discard(f"{STATE}/{HISTORY}")  # the second failure may be counted
        assert not different, different

    @property
    def is_done(self) -> bool:
        """Whether the release is current that is so after the change."""
        return self.current == self._versions[self.scenario.after]

    @property
    def current(self) -> str:
        """Digest of the current release; empty if there is none."""
        if not (self.root / STATE).is_dir():
            return ""
        with Target(self.root).folder(STATE) as state:
            return links.read(state, "current") or ""

    def _finish(self) -> None:
        if (self.root / STATE).is_dir():
            (commit if self.scenario.good else roll_back)(self._bundles, self.root)
            upkeep.collect(self.root)

    def _check_current(self, *, repairing: bool) -> None:
        current = self.current
        assert current in {self._versions[number] for number in self.scenario.current}
        if not current:
            return
        for role in ("current", "previous"):
            folder = self.root / STATE / role
            if folder.is_symlink():
                release = open_release(folder)
                assert release.digest == folder.resolve().name
                if not repairing:
                    release.verify()
        for item in upkeep.listing(self.root):
            if item.state == "kept":
                open_release(self.root / STATE / "releases" / item.digest).verify()
        program = self.root / STATE / "current/runtime/edgepack-runtime"
        done = subprocess.run([program], capture_output=True, check=True)
        assert done.stdout.startswith(b"runtime")


def copy(source: Path, target: Path) -> None:
    """Make a folder a copy of another, hard links included."""
    subprocess.run(["rm", "-rf", target], check=True)
    subprocess.run(["cp", "-a", source, target], check=True)


def tree(root: Path, *, shared: bool) -> dict[str, object]:
    """Everything in a folder: kinds, modes, contents, and if asked which files are the same."""
    content: dict[str, object] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        status = path.lstat()
        if path.is_symlink():
            content[name] = str(path.readlink())
        elif path.is_dir():
            content[name] = status.st_mode
        else:
            same = first.setdefault(status.st_ino, name)
            content[name] = (status.st_mode, path.read_bytes(), same if shared else "")
    return content

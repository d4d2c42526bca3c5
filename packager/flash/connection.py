"""A connection to a device through OpenSSH's own client.

One `ssh` connects, with the user's configuration, keys, agent, jump hosts and known hosts, and may
ask the user. The commands are other `ssh` processes that share its connection (ControlMaster in
ssh_config(5)) through a socket in a private folder; they neither read a configuration nor could
connect by themselves.
"""

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

from packager.errors import FlashError
from packager.run import Program

LOST = 255
"""Exit code of `ssh` for an error of its own; a command on the device has another."""
STDERR = 2
AGAIN = "Run the same command again: it goes on where this one ended."

# Neither can be taken for an option, for a path or for more than one word.
_USER = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}\$?"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
_IPV6 = r"\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?\]"
_ADDRESS = re.compile(rf"ssh://(?:({_USER})@)?({_HOST}|{_IPV6})(?::([0-9]{{1,5}}))?/?", re.ASCII)

_OPTIONS = {
    "ClearAllForwardings": "yes",
    "ConnectTimeout": "30",
    "ControlMaster": "yes",
    "ControlPersist": "no",
    "RemoteCommand": "none",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Address of a device.

    Attributes:
        user: name of the user; empty for the one that ssh chooses.
        host: name, alias of the user's ssh_config or IP address, without brackets.
        port: port; 0 for the one that ssh chooses.
    """

    user: str
    host: str
    port: int

    @property
    def options(self) -> list[str]:
        """The address as arguments of `ssh`."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*user, *port, "--", self.host]

    @property
    def shown(self) -> str:
        """The device in messages, `pi@kitchen.local`."""
        return f"{self.user}@{self.host}" if self.user else self.host


def parse(target: str) -> Address:
    """Read `ssh://[USER@]HOST[:PORT]`.

    Raises:
        FlashError: it is not of this form.
    """
    match = _ADDRESS.fullmatch(target)
    port = int(match[3] or 0) if match else 0
    if match is None or port > 65535 or match[3] == "0":
        raise FlashError(
            f"{target} is not the address of a device",
            hint="Use ssh://USER@HOST or ssh://USER@HOST:PORT, for example ssh://pi@kitchen.local; "
            "further settings belong into ~/.ssh/config.",
        )
    return Address(user=match[1] or "", host=match[2].strip("[]"), port=port)


class Connection:
    """An open connection: starts commands on the device."""

    def __init__(self, address: Address, socket: Path) -> None:
        self.address = address
        self._socket = socket

    def start(
        self,
        command: str,
        *,
        tty: bool = False,
        stdin: int | None = PIPE,
        stdout: int = STDERR,
    ) -> Program:
        """Start a command; its messages reach the user.

        Args:
            command: command for the user's shell there, whichever it is: plain words, or `sh -c`
                and one word in single quotes.
            tty: give it a terminal, which is the user's.
            stdin: its standard input, as for `subprocess.Popen`.
            stdout: its standard output; unless set, what it prints are messages as well.
        """
        return Program(
            [
                *("ssh", "-F", "none", "-o", "ProxyCommand=false", "-S", self._socket),
                *("-tt" if tty else "-T", "--", "device", command),
            ],
            what="Connecting",
            terminal=tty,
            stdin=stdin,
            stdout=stdout,
        )

    def run(self, command: str, data: bytes = b"") -> str:
        """Run a short command with data as its standard input, and return its output.

        Raises:
            DeviceCommandError: it failed.
            FlashError: the connection is lost.
        """
        with self.start(command, stdout=PIPE) as process:
            output, _ = process.communicate(data)
            self.check(process.returncode)
        return output.decode(errors="replace")

    def check(self, status: int) -> None:
        """Judge the exit code of a command.

        Raises:
            DeviceCommandError: it failed.
            FlashError: the connection is lost.
        """
        if status == LOST or status < 0:
            raise FlashError(f"the connection to {self.address.shown} is lost", hint=AGAIN)
        if status:
            raise DeviceCommandError(self.address, status)


class DeviceCommandError(FlashError):
    """A command on the device failed, and has said why on standard error.

    Attributes:
        exit_code: exit code of the command: its meaning is the same on both sides.
    """

    def __init__(self, address: Address, status: int) -> None:
        super().__init__(
            f"{address.shown} refused (exit code {status})", hint="Its own message is above."
        )
        self.exit_code = status


@contextmanager
def connect(address: Address) -> Iterator[Connection]:
    """Connect to a device; closed at the end of the block.

    Raises:
        FlashError: there is no connection.
    """
    if shutil.which("ssh") is None:
        raise FlashError("ssh was not found", hint="Install OpenSSH's client (openssh-client).")
    with tempfile.TemporaryDirectory(prefix="edgepack-") as folder:
        socket = Path(folder) / "s"
        terminal = sys.stdin.isatty()
        options = _OPTIONS if terminal else {**_OPTIONS, "BatchMode": "yes"}
        arguments = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        # The connection ends with `cat`, and that with this program, however it ends.
        with Program(
            ["ssh", "-T", "-S", socket, *arguments, *address.options, "cat"],
            what="Connecting",
            terminal=terminal,
            stdin=PIPE,
            stdout=DEVNULL,
        ) as master:
            # ssh listens there once it is logged in.
            while not socket.exists():
                if master.poll() is not None:
                    raise FlashError(
                        f"cannot connect to {address.shown}",
                        hint="ssh's own message is above. What it needs belongs into "
                        "~/.ssh/config; once plain ssh connects, edgepack does.",
                    )
                time.sleep(0.02)
            try:
                yield Connection(address, socket)
            finally:
                master.stop()

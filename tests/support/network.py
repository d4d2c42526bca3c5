"""Network namespaces (network_namespaces(7)), joined by a cable that a test can pull."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
"""From linux/sched.h."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class Host:
    """A namespace with an address of its own. What is started inside stays inside.

    Args:
        address: IPv4 address on the cable.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _call("unshare", CLONE_NEWNET)
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _call("setns", self._own, CLONE_NEWNET)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread, and what it starts, be in the namespace."""
        _call("setns", self.descriptor, CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", self._own, CLONE_NEWNET)

    def ip(self, *arguments: str) -> None:
        """Run ip(8) inside."""
        with self.inside():
            subprocess.run(["ip", *arguments], check=True)

    def close(self) -> None:
        """Let go of the namespace; it ends with the last process inside."""
        os.close(self.descriptor)
        os.close(self._own)


class Cable:
    """A cable between two hosts.

    Attributes:
        hosts: the hosts at its ends.
    """

    def __init__(self) -> None:
        self.hosts = (Host("10.213.0.1"), Host("10.213.0.2"))
        first, second = self.hosts
        first.ip("link", "set", "lo", "up")
        second.ip("link", "set", "lo", "up")
        first.ip("link", "add", "cable", "type", "veth", "peer", "name", "other")
        with first.inside():
            place = f"/proc/self/fd/{second.descriptor}"
            subprocess.run(
                ["ip", "link", "set", "other", "netns", place],
                check=True,
                pass_fds=[second.descriptor],
            )
        second.ip("link", "set", "other", "name", "cable")
        for host in self.hosts:
            host.ip("address", "add", f"{host.address}/30", "dev", "cable")
            host.ip("link", "set", "cable", "up")

    def pull(self) -> None:
        """Interrupt the cable: packets are lost, and nobody is told."""
        self.hosts[0].ip("link", "set", "cable", "down")

    def plug(self) -> None:
        """Join its ends again."""
        self.hosts[0].ip("link", "set", "cable", "up")

    def close(self) -> None:
        """Remove it, and the hosts."""
        for host in self.hosts:
            host.close()


def _call(name: str, *arguments: int) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

"""Addresses of devices: nothing in them can be an option or a command."""

import pytest

from packager.errors import FlashError
from packager.flash.connection import parse


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("ssh://pi@kitchen.local", ["-l", "pi", "--", "kitchen.local"]),
        ("ssh://kitchen", ["--", "kitchen"]),
        ("ssh://kitchen/", ["--", "kitchen"]),
        ("ssh://pi@10.0.0.7:2222", ["-l", "pi", "-p", "2222", "--", "10.0.0.7"]),
        ("ssh://pi@[fe80::1%eth0]:22", ["-l", "pi", "-p", "22", "--", "fe80::1%eth0"]),
    ],
)
def test_address(target: str, options: list[str]) -> None:
    assert parse(target).options == options


@pytest.mark.parametrize(
    "target",
    [
        "ssh://",
        "ssh:kitchen",
        "ssh://-oProxyCommand=x",
        "ssh://-oProxyCommand=x@kitchen",
        "ssh://pi@-kitchen",
        "ssh://pi:secret@kitchen",
        "ssh://pi@kitchen:0",
        "ssh://pi@kitchen:65536",
        "ssh://pi@kitchen:2x",
        "ssh://pi@kitchen:٢٢",
        "ssh://pi@kitchen/home",
        "ssh://pi@kitchen;reboot",
        "ssh://pi@kitchen reboot",
        "ssh://pi@kitchen\n",
        "ssh://p i@kitchen",
        "ssh://$(x)@kitchen",
    ],
)
def test_what_is_not_an_address(target: str) -> None:
    with pytest.raises(FlashError, match="is not the address of a device") as caught:
        parse(target)
    assert "ssh://USER@HOST" in caught.value.hint

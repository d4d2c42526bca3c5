"""The reporter, and doctor, through real proxies."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_runtime import doctor
from device_runtime.config.options import RuntimeConfig
from device_runtime.mqtt.address import broker
from tests.support.mosquitto import Mosquitto, subscribed
from tests.support.ports import free_port, listens
from tests.support.reporting import reporting
from tests.support.serving import eventually

USER, PASSWORD = "kitchen", "right"

pytestmark = pytest.mark.requires("mosquitto", "tinyproxy", "microsocks")


def tinyproxy(folder: Path, port: int) -> list[str]:
    settings = folder / "tinyproxy.conf"
    settings.write_text(
        f"Listen 127.0.0.1\nPort {port}\nAllow 127.0.0.1\nBasicAuth {USER} {PASSWORD}\n"
    )
    return ["tinyproxy", "-d", "-c", str(settings)]


def microsocks(_folder: Path, port: int) -> list[str]:
    return ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", USER, "-P", PASSWORD]


@contextmanager
def proxied(program: Callable[[Path, int], list[str]], folder: Path) -> Iterator[int]:
    """A proxy that runs: its port."""
    port = free_port()
    process = subprocess.Popen(
        program(folder, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    try:
        eventually(lambda: listens(port))
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(("scheme", "program"), [("http", tinyproxy), ("socks5", microsocks)])
def test_device_reports_through_a_proxy_that_wants_a_password(
    mosquitto: Mosquitto, tmp_path: Path, scheme: str, program: Callable[[Path, int], list[str]]
) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with proxied(program, tmp_path) as port:
        address = broker(
            mosquitto.url,
            proxy_url=f"{scheme}://{USER}@127.0.0.1:{port}",
            proxy_password_file=password,
        )
        with reporting(address) as device, subscribed(mosquitto.port) as messages:
            eventually(lambda: "proxy" in device.reporter.state.detail)
            assert not device.reporter.state.connected
            password.write_text(f"{PASSWORD}\n")
            messages.next("status", state="online")
            config = RuntimeConfig(
                mqtt=mosquitto.url,
                mqtt_proxy=f"{scheme}://{USER}@127.0.0.1:{port}",
                mqtt_proxy_password_file=password,
            )
            (check,) = doctor.broker(config)
            assert check.status == "ok"


def test_proxy_that_is_away_is_told(mosquitto: Mosquitto) -> None:
    address = broker(mosquitto.url, proxy_url=f"http://127.0.0.1:{free_port()}")
    with reporting(address) as device:
        eventually(lambda: "proxy" in device.reporter.state.detail)
        assert "refused" in device.reporter.state.detail

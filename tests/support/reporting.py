"""A reporter of a device whose status the test sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_runtime.mqtt.address import Broker
from device_runtime.mqtt.reporter import Reporter
from device_runtime.mqtt.spool import Spool
from tests.support.mosquitto import DEVICE
from tests.support.serving import eventually
from tests.support.statuses import status


class Device:
    """A device whose status the test sets.

    Attributes:
        status: what the device's service would report.
        spool: events that wait for the broker.
        reporter: the reporter.
    """

    def __init__(self, address: Broker, folder: Path | None = None) -> None:
        self.status = status()
        self.spool = Spool(folder)
        self.failures: list[BaseException] = []
        self.reporter = Reporter(
            address,
            device_id=DEVICE,
            interval_s=0.2,
            spool=self.spool,
            snapshot=lambda: self.status,
            on_failure=self.failures.append,
        )


@contextmanager
def reporting(address: Broker, folder: Path | None = None) -> Iterator[Device]:
    """A device that reports to a broker; that nothing failed is checked at the end."""
    device = Device(address, folder)
    before = device.spool.last
    device.reporter.start()
    try:
        # Its status from now on is compared with this one.
        eventually(lambda: device.spool.last > before)
        yield device
    finally:
        device.reporter.stop()
    assert device.failures == []


def waits(device: Device, number: int) -> bool:
    """Whether so many events wait for the broker."""
    return device.spool.state().depth == number

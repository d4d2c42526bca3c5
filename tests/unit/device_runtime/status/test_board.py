"""What is read from the machine's sensors."""

from pathlib import Path

import pytest

from device_runtime.status import board


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_what_cannot_be_read_is_null(tmp_path: Path) -> None:
    measured = board.measure(tmp_path / "missing", tmp_path, tmp_path)
    assert measured == board.Board(
        memory_available_bytes=None,
        disk_free_bytes=None,
        temperature_c=None,
        throttled=None,
        under_voltage=None,
    )


def test_this_machine_has_memory_and_a_disk(tmp_path: Path) -> None:
    measured = board.measure(tmp_path)
    assert measured.memory_available_bytes is not None
    assert measured.memory_available_bytes > 1 << 20
    assert measured.disk_free_bytes is not None
    assert measured.disk_free_bytes > 1 << 20


def test_temperature_is_that_of_the_hottest_sensor_that_works(tmp_path: Path) -> None:
    for number, value in enumerate(["41500\n", "52250\n", "-274000\n", "broken"]):
        _write(tmp_path / f"class/thermal/thermal_zone{number}/temp", value)
    assert board.measure(tmp_path, tmp_path).temperature_c == 52.25


@pytest.mark.parametrize(
    ("bits", "throttled", "under_voltage"),
    [
        ("0\n", False, False),
        ("50000\n", False, False),  # both, but not now
        ("50005\n", True, True),
        ("8\n", True, False),
        ("80002\n", True, False),
        ("1\n", False, True),
    ],
)
def test_the_firmware_of_a_raspberry_pi(
    tmp_path: Path, bits: str, throttled: bool, under_voltage: bool
) -> None:
    _write(tmp_path / "devices/platform/soc/soc:firmware/get_throttled", bits)
    measured = board.measure(tmp_path, tmp_path)
    assert (measured.throttled, measured.under_voltage) == (throttled, under_voltage)


def test_other_boards_tell_by_their_drivers(tmp_path: Path) -> None:
    _write(tmp_path / "class/thermal/cooling_device0/type", "pwm-fan\n")
    _write(tmp_path / "class/thermal/cooling_device0/cur_state", "3\n")
    assert board.measure(tmp_path, tmp_path).throttled is None
    _write(tmp_path / "class/thermal/cooling_device1/type", "cpufreq-cpu0\n")
    _write(tmp_path / "class/thermal/cooling_device1/cur_state", "0\n")
    assert board.measure(tmp_path, tmp_path).throttled is False
    _write(tmp_path / "class/thermal/cooling_device1/cur_state", "2\n")
    assert board.measure(tmp_path, tmp_path).throttled is True
    _write(tmp_path / "class/hwmon/hwmon2/name", "rpi_volt\n")
    _write(tmp_path / "class/hwmon/hwmon2/in0_lcrit_alarm", "1\n")
    assert board.measure(tmp_path, tmp_path).under_voltage is True

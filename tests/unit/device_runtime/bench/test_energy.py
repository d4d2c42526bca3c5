"""Energy from the sensors of a board, which are files here."""

import time
from pathlib import Path

import pytest

from device_runtime.bench import energy


def _write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_board_without_sensors_has_no_energy(tmp_path: Path) -> None:
    with energy.meter(tmp_path) as meter:
        assert (meter.name, meter.joules()) == ("", None)


def test_counters_of_the_processor_are_summed_up(tmp_path: Path) -> None:
    powercap = tmp_path / "class/powercap"
    package = _write(
        powercap / "intel-rapl:0", name="package-0", energy_uj=9_000_000, max_energy_range_uj=10**7
    )
    dram = _write(powercap / "intel-rapl:0:1", name="dram", energy_uj=0)
    core = _write(powercap / "intel-rapl:0:0", name="core", energy_uj=0)
    with energy.meter(tmp_path) as meter:
        assert meter.name == "RAPL: package-0 + dram"
        assert meter.joules() == 0
        _write(package, energy_uj=9_500_000)
        _write(dram, energy_uj=250_000)
        _write(core, energy_uj=400_000)
        assert meter.joules() == pytest.approx(0.75)
        # The counter begins again at its range.
        _write(package, energy_uj=500_000)
        assert meter.joules() == pytest.approx(1.75)
        (package / "energy_uj").unlink()
        assert meter.joules() is None


def test_counters_that_this_user_may_not_read_do_not_count(tmp_path: Path) -> None:
    _write(tmp_path / "class/powercap/intel-rapl:0", name="package-0")
    assert energy.meter(tmp_path).name == ""


def _jetson(sys: Path) -> None:
    _write(
        sys / "class/hwmon/hwmon1",
        name="ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=2000,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=5000,
        curr2_input=1000,
    )


def test_sensor_of_power_is_summed_up_over_time(tmp_path: Path) -> None:
    _jetson(tmp_path)
    with energy.meter(tmp_path) as meter:
        assert meter.name == "VDD_IN"  # of which the other channel is a part
        started = time.monotonic()
        while not meter.joules():
            assert time.monotonic() < started + 60
            time.sleep(0.01)
        first = meter.joules()
        assert first is not None
        # 10 W: no more joules than that in the time since.
        assert 0 < first <= 10 * (time.monotonic() - started + 1)


def test_channels_without_the_whole_board_are_added(tmp_path: Path) -> None:
    for number in (1, 2):
        _write(tmp_path / f"class/hwmon/hwmon{number}", name="ina219", power1_input=1_500_000)
    _write(tmp_path / "class/hwmon/hwmon3", name="amdgpu", power1_input=90_000_000)
    _write(tmp_path / "class/hwmon/hwmon4", name="ina226", power1_input="broken")
    meter = energy.meter(tmp_path)
    assert meter.name == "ina219 + ina219"
    assert meter._read() == pytest.approx(3.0)

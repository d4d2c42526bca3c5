"""Jobs in processes of their own: how each may end, and what is made of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from packager.errors import QuantizeError, ResourceError
from packager.jobs.harness import run_job
from packager.jobs.job import Job
from scripts.build_memory import measure
from tests.support import jobs

pytestmark = pytest.mark.usefixtures("own_cache")


def run(job: Job[Any], target: Path | None = None) -> Any:
    return run_job(job, target, what="Trying", error=QuantizeError, hint="Try another.")


def test_result_files_and_progress_come_back_whatever_is_printed(tmp_path: Path) -> None:
    amounts: list[int] = []
    job = jobs.Add(numbers=(1, 2, 3), folder=Path("/somewhere/else"))
    result = run_job(
        job, tmp_path, what="Adding", error=QuantizeError, hint="", advance=amounts.append
    )
    assert result == jobs.Sum(6)
    assert amounts == [1, 2, 3]
    assert (tmp_path / "made").read_text() == "else"


def test_peak_of_memory_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(jobs.Add(numbers=(), folder=tmp_path), tmp_path)
    assert "Trying: peak resident memory 0.0 GB" in capsys.readouterr().err


def test_refusal_is_the_message_and_may_have_its_own_hint() -> None:
    for hint, expected in {"": "Try another.", "Give a longer one.": "Give a longer one."}.items():
        with pytest.raises(QuantizeError) as caught:
            run(jobs.Refuse(hint=hint))
        assert str(caught.value) == "the text is too short"
        assert caught.value.hint == expected


def test_failure_has_the_last_line_and_names_the_log(own_cache: Path) -> None:
    with pytest.raises(QuantizeError, match="Trying failed: RuntimeError: no such layer") as caught:
        run(jobs.Fail(message="no such layer"))
    log = own_cache / "last-failure.log"
    assert str(log) in str(caught.value)
    assert "Traceback" in log.read_text()
    assert caught.value.hint == "Try another."


@pytest.mark.parametrize(
    ("cause", "expected"), [("memory", "ran out of memory"), ("disk", "the disk is full")]
)
def test_what_the_machine_lacks_is_seen_behind_other_errors(cause: str, expected: str) -> None:
    with pytest.raises(ResourceError, match=expected) as caught:
        run(jobs.Fail(message="the graph cannot be written", cause=cause))
    assert caught.value.hint


@pytest.mark.parametrize("words", ["MemoryError", "No space left on device", "signal 9"])
def test_words_in_the_log_alone_mean_nothing(words: str) -> None:
    with pytest.raises(QuantizeError, match=words):
        run(jobs.Fail(message=f"the layer {words} is unknown"))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_process_that_a_signal_ends_has_failed(name: str) -> None:
    """Somebody has killed it, or it has crashed; the kernel did not end it for want of memory."""
    with pytest.raises(QuantizeError, match=f"Trying failed: its process was killed by {name}"):
        run(jobs.Signal(number=signal.Signals[name]))


@pytest.mark.requires("root", "cgroups")
def test_process_that_the_kernel_ends_has_run_out_of_memory() -> None:
    figures, output = measure(
        [sys.executable, "-c", "from tests.support import jobs; jobs.main()"], 300_000_000
    )
    assert figures["status"] == 0, output
    assert "ResourceError Eating: the machine ran out of memory" in output


@pytest.mark.requires("root")
def test_full_disk_is_seen_without_an_error_number(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        with pytest.raises(ResourceError, match="Trying: the disk is full"):
            run(jobs.Fill(), small)
    finally:
        subprocess.run(["umount", small], check=True)


def test_end_without_a_result_is_a_failure() -> None:
    with pytest.raises(QuantizeError, match="Trying failed: its process exited with status 0"):
        run(jobs.Vanish())


def test_interrupt_ends_the_process_and_what_it_started(tmp_path: Path) -> None:
    def interrupt(_amount: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(
            jobs.Wait(), tmp_path, what="Trying", error=QuantizeError, hint="", advance=interrupt
        )
    for process in (tmp_path / "processes").read_text().split():
        wait_for_end(process)


def test_process_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """The next build may be at the same files before long."""
    program = "from tests.support import jobs; jobs.wait_to_be_killed()"
    parent = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert parent.returncode == -signal.SIGKILL
    process, started = (tmp_path / "processes").read_text().split()
    try:
        wait_for_end(process)
    finally:
        os.kill(int(started), signal.SIGKILL)


def wait_for_end(process: str) -> None:
    deadline = time.monotonic() + 60
    while alive(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: str) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

"""The door to subprocesses: output, failure, and the end of everything that was started."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from packager.errors import CommandError
from packager.run import beside, run, stop_check


def test_output_of_both_streams() -> None:
    out = run(["sh", "-c", "echo one; echo two >&2"], what="Trying")
    assert out == "one\ntwo\n"


def test_failure_carries_the_last_lines() -> None:
    with pytest.raises(CommandError, match="Trying: sh failed with status 3") as caught:
        run(["sh", "-c", "echo why; exit 3"], what="Trying")
    assert caught.value.log == "why\n"
    with pytest.raises(CommandError, match="killed by signal 9"):
        run(["sh", "-c", "kill -9 $$"], what="Trying")
    with pytest.raises(CommandError, match="no-such-program was not found"):
        run(["no-such-program"], what="Trying")


def test_interrupt_ends_the_program_and_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}; wait"

    def interrupt() -> None:
        while not pid_file.exists() or not pid_file.read_text().strip():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", script], what="Trying")
    grandchild = int(pid_file.read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{grandchild}").exists() and not _is_zombie(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_does_not_wait_for_input() -> None:
    assert run(["cat"], what="Trying") == ""


def test_work_beside_a_block_gives_its_result() -> None:
    with beside(lambda: run(["echo", "one"], what="Trying")) as future:
        second = run(["echo", "two"], what="Trying")
    assert (future.result(), second) == ("one\n", "two\n")


def _wait_for(path: Path) -> int:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def _sleep(pid_file: Path) -> str:
    return run(["sh", "-c", f"echo $$ > {pid_file}; exec sleep 60"], what="Sleeping")


def test_failing_work_ends_the_programs_of_the_block(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def fail() -> None:
        _wait_for(pid_file)
        raise ValueError("the first error")

    with pytest.raises(ValueError, match="the first error"), beside(fail):
        _sleep(pid_file)
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_ends_the_programs_of_the_work(
    error: type[BaseException], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    def work() -> None:
        try:
            _sleep(first)
        finally:
            _sleep(second)

    with pytest.raises(error), beside(work):
        _wait_for(first)
        raise error
    assert not Path(f"/proc/{first.read_text().strip()}").exists()
    # What is started after that does not go on either.
    assert not second.exists() or not Path(f"/proc/{second.read_text().strip()}").exists()


def test_failing_work_is_reported_when_the_block_is_done() -> None:
    done = []
    with pytest.raises(CommandError, match="failed with status 3"):
        with beside(lambda: run(["sh", "-c", "exit 3"], what="Trying")):
            done.append(True)
        done.append(False)
    assert done == [True]


def test_work_without_a_program_can_be_stopped() -> None:
    checks = 0

    def work() -> None:
        nonlocal checks
        check = stop_check()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            check()
            checks += 1
            time.sleep(0.001)

    started = time.monotonic()
    with pytest.raises(ValueError, match="mine"), beside(work):
        while not checks:
            time.sleep(0.001)
        raise ValueError("mine")
    assert time.monotonic() - started < 5
    stop_check()()


def test_an_interrupt_while_the_work_is_waited_for_ends_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    cleaned = []

    def work() -> None:
        try:
            _sleep(pid_file)
        finally:
            time.sleep(0.5)
            cleaned.append(True)

    def interrupt() -> None:
        _wait_for(pid_file)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), beside(work):
        pass
    assert cleaned
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()

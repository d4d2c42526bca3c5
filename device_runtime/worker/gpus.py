"""The GPUs of this machine, looked for in a process of its own: a broken driver may end it."""

import subprocess

import msgspec

from device_runtime.vulkan import Gpus
from device_runtime.worker.child import exit_error
from device_runtime.worker.process import program

TIMEOUT_S = 30.0


def find() -> Gpus:
    """List the GPUs that have a Vulkan driver; the problem says why there is none."""
    try:
        done = subprocess.run(
            [*program(), "gpus"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=Gpus)
    except subprocess.TimeoutExpired:
        return Gpus(problem=f"the Vulkan drivers did not answer within {TIMEOUT_S:.0f} s")
    except OSError as error:
        return Gpus(problem=f"the Vulkan drivers cannot be asked: {error}")
    except msgspec.DecodeError:
        how = exit_error(done.returncode, "program that lists GPUs")
        return Gpus(problem=f"a Vulkan driver is broken: {how}")

"""Heavy Python work in a process of its own.

The model builder, transformers and ONNX Runtime print to stdout, keep gigabytes until their process
ends, may crash in native code, and may be killed by the kernel for the memory they take; none of
that should be the packager's fate.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from packager import cache
from packager.errors import CommandError, PackagerError, ResourceError
from packager.run import run

# Children work on local files only, and report to nobody.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "ORT_TELEMETRY_DISABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
    # Threads that wait in a loop cost little on an idle machine and multiply the time on a busy
    # one: calibrating a layer took 3 s instead of 40 beside other work.
    "OMP_WAIT_POLICY": "PASSIVE",
    # The model builder writes the commit of whatever checkout it is installed below into the
    # graph, as its own; without git it takes the one its package was made from.
    "GIT_DIR": os.devnull,
}


def run_module(
    module: str,
    arguments: Sequence[str | Path],
    *,
    what: str,
    error: type[PackagerError],
    hint: str,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a Python module to its end; what it printed.

    Args:
        module: its full name.
        arguments: its command line.
        what: what is being done, for the error message.
        error: the kind of error to raise when it fails for a reason of its own.
        hint: what to do then.
        on_line: called with each line as it is printed.

    Raises:
        ResourceError: memory or disk space ran out.
        PackagerError: of the given kind; the message has the child's last line, and names the
            file that has the others.
    """
    try:
        return run(
            [sys.executable, "-m", module, *arguments],
            what=what,
            env={**os.environ, **OFFLINE},
            on_line=on_line,
        )
    except CommandError as failure:
        if "No space left on device" in failure.log:
            raise ResourceError(
                f"{what}: the disk is full",
                hint="Free some space, or set EDGEPACK_CACHE to a folder on a larger disk.",
            ) from None
        if "signal 9" in str(failure) or "MemoryError" in failure.log:
            raise ResourceError(
                f"{what}: the machine ran out of memory",
                hint="Close other programs, or take a smaller model.",
            ) from None
        log = cache.root() / "last-failure.log"
        log.write_text(failure.log)
        last = next(reversed(failure.log.split("\n")[:-1]), str(failure))
        raise error(f"{what} failed: {last} (more in {log})", hint=hint) from None

"""Bundles of a tiny model whose runtime is this source tree, with faults if a test wants them.

The runtime of a release is a script. Python runs `sitecustomize` before anything else: there, a
release has its fault, as real as one in the program.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.manifest import RUNTIME_ENTRY, Blob, Probe, Record
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs import generation, probe
from tests.support import bundles

ROOT = Path(__file__).parents[2]
HOOKS = "runtime/hooks"
SCRIPT = f"""\
#!/bin/sh
release=$(dirname "$(dirname "$(readlink -f "$0")")")
PYTHONPATH="$release/{HOOKS}:{ROOT}" PYTHONDONTWRITEBYTECODE=1 EDGEPACK_RELEASE="$release" \\
    exec {sys.executable} -m device_runtime "$@"
"""

_SERVING = 'import os, signal, sys, threading, time\nif "serve" in sys.orig_argv:\n    '
_WHEN_READY = """\
def fault():
    path = os.environ["RUNTIME_DIRECTORY"] + "/health.json"
    while not os.path.exists(path) or '"ready"' not in open(path).read():
        time.sleep(0.05)
    time.sleep(1)
    {}
if "serve" in sys.orig_argv:
    threading.Thread(target=fault, daemon=True).start()
"""
CRASHES = _SERVING + "os._exit(3)\n"
HANGS = _SERVING + "time.sleep(1000)\n"
DIES = "import os, sys, threading, time\n" + _WHEN_READY.format("os._exit(3)")
FREEZES = "import os, sys, signal, threading, time\n" + _WHEN_READY.format(
    "os.kill(os.getpid(), signal.SIGSTOP)"
)
HUNGRY = _SERVING + 'ballast = b"x" * (400 << 20)\n'
SLOW = """\
import sys, time
if "worker" in sys.orig_argv:
    from device_runtime.inference import genai_model
    stream = genai_model.GenAIModel.stream
    class Slow:
        def __init__(self, model, request):
            self.stream = stream(model, request)
        def push(self, token):
            time.sleep(0.05)
            return self.stream.push(token)
    genai_model.GenAIModel.stream = lambda model, request: Slow(model, request)
"""


def find_probe(model: Path) -> Probe:
    """A probe of the tiny model, which is random and so never sure of a token."""
    loaded = generation.load(model)
    margin, probe.MARGIN = probe.MARGIN, 0.0
    try:
        certain = probe.find(loaded, Tokenizer(model), model)
    finally:
        probe.MARGIN = margin
    assert certain is not None
    return Probe(prompt=certain.prompt, tokens=certain.tokens)


def bundle(path: Path, model: Path, number: int, *, fault: str = "", **changes: Any) -> Path:
    """Write a bundle.

    Args:
        path: its folder.
        model: ONNX GenAI folder.
        number: its sequence, and the first part of its version.
        fault: Python that its runtime executes at each start.
        changes: other values of the manifest, or of its settings.
    """
    draft = bundles.draft()
    files = {RUNTIME_ENTRY: SCRIPT.encode(), f"{HOOKS}/sitecustomize.py": fault.encode()}
    files |= {f"model/{file.name}": file.read_bytes() for file in sorted(model.iterdir())}
    blobs = {}
    records = []
    for name, data in files.items():
        digest = bundles.digest(data)
        blobs[digest] = data
        records.append(
            Record(
                path=name,
                component="runtime" if name.startswith("runtime/") else "model",
                mode=0o755 if name == RUNTIME_ENTRY else 0o644,
                size=len(data),
                sha256=digest,
                blob=Blob(sha256=digest, size=len(data)),
            )
        )
    fields = draft.manifest.settings.__struct_fields__
    settings = {name: changes.pop(name) for name in fields if name in changes}
    manifest = msgspec.structs.replace(
        draft.manifest,
        version=f"{number}.0.0",
        sequence=number,
        records=tuple(records),
        settings=msgspec.structs.replace(draft.manifest.settings, **settings),
        **{"memory_bytes": 512 << 20, **changes},
    )
    return bundles.Draft(manifest, blobs).write(path / f"{number}.epk")

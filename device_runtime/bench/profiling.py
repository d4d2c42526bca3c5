"""A model whose operators are timed: one prompt and its answer, in this process."""

import gc
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from device_runtime.bench import trace
from device_runtime.bench.cases import Case, Prompts
from device_runtime.bench.results import Profile
from device_runtime.bundle.manifest import MODEL_FOLDER
from device_runtime.bundle.release import Release
from device_runtime.errors import EngineError
from device_runtime.inference.engine import Engine

PROMPT, ANSWER = 512, 17

Load = Callable[[Release], Engine]


def profile(release: Release, load: Load) -> Profile:
    """Answer a prompt with ONNX Runtime's profiler, and sum up the time by operator.

    The profiler is an option of the session: the model is loaded from a folder with links to its
    files and another genai_config.json. The trace has tens of megabytes, and is deleted.

    Args:
        release: the release.
        load: loads the model of a release.

    Raises:
        DeviceError: the model does not load or answer.
        EngineError: the profiler wrote nothing that can be read.
    """
    context = min(PROMPT, release.manifest.context_length - ANSWER)
    with tempfile.TemporaryDirectory(prefix="edgepack-bench-") as name:
        folder = Path(name)
        _link_model(release.model_folder, folder)
        config = json.loads((folder / MODEL_FOLDER / "genai_config.json").read_bytes())
        engine = load(replace(release, folder=folder))
        prompts = Prompts(config["model"]["vocab_size"])
        usage = None
        for chunk in engine.generate(prompts.request(Case(context, ANSWER)), lambda: False):
            usage = chunk.usage
        # The trace is written when the session ends.
        del engine
        gc.collect()
        try:
            (path,) = folder.glob("trace*.json")
            timed = trace.runs(path.read_bytes())
        except ValueError as error:
            raise EngineError(f"ONNX Runtime's profiler wrote no usable trace: {error}") from None
    assert usage is not None
    # The first run is that in which the engine learns the sizes; the last ones are decode steps.
    steps = usage.completion_tokens - 1
    return Profile(
        decode=trace.by_operator(timed[len(timed) - steps :], mean=True),
        prefill=trace.by_operator(timed[1 : len(timed) - steps], mean=False),
        context=context,
    )


def _link_model(model: Path, folder: Path) -> None:
    target = folder / MODEL_FOLDER
    target.mkdir()
    for path in model.iterdir():
        (target / path.name).symlink_to(path)
    file = target / "genai_config.json"
    config = json.loads(file.read_bytes())
    options = config["model"]["decoder"].setdefault("session_options", {})
    options["enable_profiling"] = str(folder / "trace")
    file.unlink()
    file.write_text(json.dumps(config))

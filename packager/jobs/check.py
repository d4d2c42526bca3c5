"""Look at a built model's graph, load it and generate with it. Runs as a child process:

    python -m packager.jobs.check FOLDER RUN PROMPT MAX_TOKENS

A model that cannot be loaded may end the process that tries; the packager must survive that.
RUN is `run`, or `look` for a graph that this machine has no execution provider for. The result is
a JSON object on the last line of stdout.
"""

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from device_runtime.memory import kv_cache_length

LARGE = 1 << 16
"""Elements of a weight from which on it must be in a kernel that is fast on the target."""


def look(folder: Path) -> dict[str, Any]:
    """What a graph consists of: its operators, its quantized weights and its large float ones."""
    import onnx

    config = json.loads((folder / "genai_config.json").read_text())
    decoder = config["model"]["decoder"]
    graph = onnx.load(str(folder / decoder["filename"]), load_external_data=False).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    providers = decoder["session_options"]["provider_options"]
    return {
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
        "quantized": [
            _quantized(node, weights)
            for node in graph.node
            if node.op_type in ("MatMulNBits", "GatherBlockQuantized")
        ],
        "large_floats": [
            node.name
            for node in graph.node
            if node.op_type in ("MatMul", "Gather", "Gemm")
            for name in node.input
            if name in weights and math.prod(weights[name].dims) >= LARGE
        ],
        "execution_provider": next(iter(providers[0])).lower() if providers else "cpu",
    }


def _quantized(node: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """How one weight is stored; zeros is the element type of its zero points, empty for none."""
    import onnx

    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    zeros = weights.get(node.input[3]) if len(node.input) > 3 else None
    return {
        "node": node.name,
        "operator": node.op_type,
        "bits": attributes.get("bits", 4),
        "block_size": attributes["block_size"],
        "accuracy_level": attributes.get("accuracy_level", 0),
        "zeros": onnx.TensorProto.DataType.Name(zeros.data_type) if zeros is not None else "",
    }


def answer(folder: Path, prompt: str, max_tokens: int) -> str:
    """What the model says to a prompt, greedily, through its chat template if it has one."""
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    model = og.Model(str(folder))
    return say(model, og.Tokenizer(model), folder, prompt, max_tokens)


def say(model: Any, tokenizer: Any, folder: Path, prompt: str, max_tokens: int) -> str:
    """What a loaded model of a folder says to a prompt, greedily."""
    if has_chat_template(folder):
        messages = json.dumps([{"role": "user", "content": prompt}])
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    else:
        # What a template begins with, a plain text must be given.
        tokenizer.update_options(add_special_tokens="true")
    tokens = tokenizer.encode(prompt)
    runner = generator(model, folder, len(tokens) + max_tokens)
    runner.append_tokens(tokens)
    for _ in range(max_tokens):
        if runner.is_done():
            break
        runner.generate_next_token()
    return str(tokenizer.decode(runner.get_sequence(0)[len(tokens) :])).strip()


def generator(model: Any, folder: Path, tokens: int, **options: Any) -> Any:
    """A greedy generator of ONNX Runtime GenAI.

    Args:
        model: loaded from the folder.
        folder: an ONNX GenAI folder.
        tokens: prompt and answer together, for which the KV cache has room. The cache may be
            longer, so the caller counts.
        options: further search options.
    """
    import onnxruntime_genai as og

    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    params = og.GeneratorParams(model)
    length = kv_cache_length(decoder, tokens)
    params.set_search_options(do_sample=False, max_length=length, **options)
    return og.Generator(model, params)


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder (Hugging Face or ONNX GenAI) says how a chat is written."""
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        config.is_file() and "chat_template" in json.loads(config.read_text())
    )


if __name__ == "__main__":
    chosen = Path(sys.argv[1])
    found = look(chosen)
    if sys.argv[2] == "run":
        found["answer"] = answer(chosen, sys.argv[3], int(sys.argv[4]))
    sys.stdout.write("\n" + json.dumps(found) + "\n")

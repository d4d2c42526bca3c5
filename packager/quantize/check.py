"""Look at a built model's graph, load it and generate with it. Runs as a child process:

    python -m packager.quantize.check FOLDER RUN PROMPT MAX_TOKENS

A model that cannot be loaded may end the process that tries; the packager must survive that.
RUN is `run`, or `look` for a graph that this machine has no execution provider for. The result is
a JSON object on the last line of stdout.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def look(folder: Path) -> dict[str, Any]:
    """What a graph consists of: operators, and the settings of its quantized MatMuls."""
    import onnx

    config = json.loads((folder / "genai_config.json").read_text())
    decoder = config["model"]["decoder"]
    graph = onnx.load(str(folder / decoder["filename"]), load_external_data=False).graph
    quantized = [
        {attribute.name: attribute.i for attribute in node.attribute}
        for node in graph.node
        if node.op_type == "MatMulNBits"
    ]
    providers = decoder["session_options"]["provider_options"]
    return {
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
        "bits": sorted({node.get("bits", 4) for node in quantized}),
        "accuracy_levels": sorted({node.get("accuracy_level", 0) for node in quantized}),
        "execution_provider": next(iter(providers[0])).lower() if providers else "cpu",
    }


def answer(folder: Path, prompt: str, max_tokens: int) -> str:
    """What the model says to a prompt, greedily, through its chat template if it has one."""
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    if has_chat_template(folder):
        messages = json.dumps([{"role": "user", "content": prompt}])
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    tokens = tokenizer.encode(prompt)
    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(tokens) + max_tokens)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    return str(tokenizer.decode(generator.get_sequence(0)[len(tokens) :])).strip()


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

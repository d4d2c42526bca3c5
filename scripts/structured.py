"""Query a real model for JSON with random schemas, and check every answer against its schema.

Usage: python -m scripts.structured MODEL_FOLDER [SCHEMAS]
"""

import sys
import time
from collections import Counter
from pathlib import Path

from device_runtime.json_schema.document import UnsupportedSchemaError
from device_runtime.json_schema.grammar import rules
from tests.support import schemas

PROMPT = "<|im_start|>user\nAnswer with JSON.<|im_end|>\n<|im_start|>assistant\n"


def main(folder: Path, total: int) -> int:
    """Generate answers for a number of schemas, greedily and with temperature 1."""
    model = schemas.GuidedModel(folder)
    count: Counter[str] = Counter()
    started = time.monotonic()
    seed = 0
    while count["schemas"] < total:
        seed += 1
        schema = schemas.RandomSchemas(seed).make()
        try:
            grammar = rules(schema)
        except UnsupportedSchemaError:
            count["refused"] += 1
            continue
        count["schemas"] += 1
        for noise in (None, seed):
            data, whole = model.answer(grammar, prompt=PROMPT, seed=noise, tokens=400)
            if not whole:
                count["length"] += 1
                continue
            try:
                schemas.check(schema, data.decode())
                count["valid"] += 1
            except Exception as error:
                count["invalid"] += 1
                print(f"seed {seed}: {error}", file=sys.stderr)  # noqa: T201
    print(dict(count), f"{time.monotonic() - started:.0f} s")  # noqa: T201
    return 1 if count["invalid"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200))

"""Run all clients against the frozen runtime, and write the table of docs/clients.md:

python -m tests.clients
"""

import tempfile
import time
from pathlib import Path

from scripts import tables
from tests.clients import environments, programs
from tests.support.serving import Serving

DOCUMENT = "clients.md"


def main() -> None:
    start = time.monotonic()
    for group in (environments.CLIENTS, environments.WITH_OPENAI_2):
        environments.python(group)
    environments.node_modules()
    print(f"clients installed in {time.monotonic() - start:.0f} s")
    outcomes = {}
    with (
        tempfile.TemporaryDirectory() as name,
        Serving(programs.release(Path(name)).folder) as server,
    ):
        model = server.get("/v1/models")["data"][0]["id"]
        for key, client in programs.CLIENTS.items():
            start = time.monotonic()
            outcomes[key] = programs.run(client, server.url, model)
            print(f"{key}: {time.monotonic() - start:.1f} s")
            for case, fault in outcomes[key].items():
                if fault:
                    print(f"  {case}: {fault}")
    path = tables.DOCS / DOCUMENT
    text = tables.filled(path.read_text(), "clients", programs.table(outcomes))
    path.write_text(text)


if __name__ == "__main__":
    main()

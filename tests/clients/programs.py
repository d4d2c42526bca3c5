"""The clients: which program runs the cases of each, and the faults that are known."""

import json
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release
from scripts import tables
from tests.clients import environments
from tests.clients.environments import CLIENTS as NEWEST
from tests.clients.environments import FOLDER, WITH_OPENAI_2
from tests.support.commands import edgepack

CASES = ("chat", "stream", "tools", "structured", "error", "abort")
"""What every client does; some do more."""


@dataclass(frozen=True)
class Client:
    """A client, or one of its ways to ask.

    Attributes:
        name: for the table.
        package: its version is that of the client.
        program: file below python/ or node/.
        group: what of Python is installed.
        way: argument of the program.
    """

    name: str
    package: str
    program: str
    group: str = NEWEST
    way: str = ""

    @property
    def version(self) -> str:
        if self.program.endswith(".mjs"):
            package = json.loads((FOLDER / "node" / "package.json").read_text())
            return str(package["dependencies"][self.package])
        text = environments.lock(self.group).read_text()
        match = re.search(rf"^{re.escape(self.package)}==(\S+)", text, re.MULTILINE)
        assert match, f"{self.package} is not locked"
        return match[1]


CLIENTS = {
    "openai": Client("openai (Python)", "openai", "openai_client.py"),
    "openai-responses": Client("openai (Python), Responses", "openai", "openai_responses.py"),
    "openai-node": Client("openai (Node)", "openai", "openai.mjs"),
    "vercel": Client("Vercel AI SDK, `openai()`", "ai", "vercel.mjs"),
    "vercel-chat": Client("Vercel AI SDK, `openai.chat()`", "ai", "vercel.mjs", way="chat"),
    "langchain": Client("LangChain (Python)", "langchain-openai", "langchain_client.py"),
    "langchain-responses": Client(
        "LangChain (Python), Responses", "langchain-openai", "langchain_client.py", way="responses"
    ),
    "langchain-js": Client("LangChain (JS)", "@langchain/openai", "langchain.mjs"),
    "langchain-js-responses": Client(
        "LangChain (JS), Responses", "@langchain/openai", "langchain.mjs", way="responses"
    ),
    "litellm": Client("LiteLLM", "litellm", "litellm_client.py"),
    "instructor": Client("instructor", "instructor", "instructor_client.py", WITH_OPENAI_2),
    "pydantic-ai": Client("Pydantic AI", "pydantic-ai-slim", "pydantic_ai_client.py"),
    "pydantic-ai-responses": Client(
        "Pydantic AI, Responses", "pydantic-ai-slim", "pydantic_ai_client.py", way="responses"
    ),
    "llama-index": Client(
        "LlamaIndex", "llama-index-llms-openai-like", "llama_index_client.py", WITH_OPENAI_2
    ),
    "openai-agents": Client("OpenAI Agents", "openai-agents", "openai_agents_client.py"),
    "openai-agents-chat": Client(
        "OpenAI Agents, chat completions", "openai-agents", "openai_agents_client.py", way="chat"
    ),
    "anthropic": Client("anthropic", "anthropic", "anthropic_client.py"),
    "ollama": Client("ollama", "ollama", "ollama_client.py"),
    "llm": Client("llm", "llm", "llm_client.py"),
}

EMBEDDING_MODEL = "all-minilm-l6-v2"

KNOWN: dict[str, dict[str, str]] = {}
"""Cases that fail, by client, with the reason that the table gives."""


def release(folder: Path) -> Release:
    """Build the default model and one for embeddings with the frozen runtime, and unpack them."""
    bundle = folder / "clients.epk"
    profile = f"cpu-{platform.machine()}"
    outcome = edgepack(
        *("build", "--profile", profile, "--embedding-model", EMBEDDING_MODEL, "-o", bundle)
    )
    assert outcome.status == 0, outcome.err
    with open_bundle(bundle) as opened:
        return opened.unpack(folder / "release")


def run(client: Client, url: str, model: str) -> dict[str, str]:
    """Run the cases of a client.

    Returns:
        What is wrong in each case, in the client's words; an empty text for nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*_command(client, Path(folder)), url, model, client.way],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            # Nothing of the user's settings, which the clients look for.
            env={"PATH": "/usr/bin:/bin", "HOME": folder},
            cwd=folder,
        )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {outcome["case"]: outcome["fault"] for outcome in outcomes}


def _command(client: Client, folder: Path) -> list[Path]:
    if client.program.endswith(".py"):
        interpreter = environments.python(client.group) / "bin" / "python"
        return [interpreter, FOLDER / "python" / client.program]
    # Node.js looks for packages beside the program.
    (folder / "node_modules").symlink_to(environments.node_modules())
    for path in (FOLDER / "node").glob("*.mjs"):
        shutil.copy(path, folder)
    return [environments.node(), folder / client.program]


def table(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """Render what works with which client."""
    rows = []
    for key, faults in outcomes.items():
        client = CLIENTS[key]
        cells = {
            case: f"fails: {KNOWN.get(key, {}).get(case, fault)}" if fault else "works"
            for case, fault in faults.items()
        }
        main = [cells.pop(case) for case in CASES]
        also = "; ".join(f"{case.replace('_', ' ')} {cell}" for case, cell in cells.items())
        rows.append((client.name, f"{client.package} {client.version}", *main, also))
    return tables.table(("client", "version", *CASES, "also"), rows)

"""Generate what docs/ has from the code's data: tables, and the AsyncAPI document:

python -m scripts.tables
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from device_runtime.mqtt.contract import CHANNELS
from packager.models.catalog import CATALOG
from packager.recipes.providers import NOT_MADE
from packager.report.models import FACTS, facts
from scripts import asyncapi
from tests.support.families.models import FAMILIES
from tests.support.families.variants import OTHERS, VARIANTS
from tests.support.provider_builds import CASES, MADE, expected

DOCS = Path(__file__).parent.parent / "docs"
ASYNCAPI = "mqtt-asyncapi.json"
_PLACEHOLDERS = str.maketrans("{}", "<>")
BEGIN, END = "<!-- {} -->", "<!-- end -->"


def families() -> str:
    """Render the table of families and the checks of each."""
    rows = [
        (
            family.name,
            family.examples,
            f"`{family.architecture}`",
            family.special,
            *("equal", "yes", "yes"),
            _chat(family.template, family.system),
        )
        for family in FAMILIES.values()
    ]
    heads = ("family", "models", "architecture", "special features")
    return table((*heads, "fp32 tokens", "int8", "int4", "chat tokens"), rows)


def _chat(template: str | None, system: bool) -> str:
    if template is None:
        return "no template"
    return "equal" if system else "equal; no system message"


def others() -> str:
    """Render the table of other architectures that are compared."""
    rows = [(o.name, f"`{o.architecture}`", "equal", "yes", "yes") for o in OTHERS.values()]
    return table(("family", "architecture", "fp32 tokens", "int8", "int4"), rows)


def variants() -> str:
    """Render the table of the families' variants."""
    return table(("variant", "fp32 tokens"), [(name, "equal") for name in VARIANTS])


def precisions() -> str:
    """Render the table of precisions by execution provider: the graph, or why there is none."""
    rows = []
    for provider, precision in CASES:
        if (provider, precision) not in MADE:
            rows.append((provider, precision, "no", NOT_MADE[provider, precision], "", "", ""))
            continue
        graph = expected(provider, precision)
        rotary = " + RotaryEmbedding" if graph.rotary else ""
        linear = f"MatMulNBits, {graph.bits} bits" if graph.bits else "MatMul"
        floats = {"FLOAT": "fp32", "FLOAT16": "fp16"}[graph.floats]
        runs = "runs" if provider == "cpu" else "built; runs on the CPU"
        rows.append(
            (
                *(provider, precision, runs),
                *(f"{graph.attention}{rotary}", linear, graph.embedding, floats),
            )
        )
    heads = (
        "provider",
        "precision",
        "",
        "attention",
        "linear layers",
        "embedding",
        "logits, cache",
    )
    return table(heads, rows)


def models() -> str:
    """Render the catalog of models."""
    return table(FACTS, [facts(model) for model in CATALOG.values()])


def topics() -> str:
    """Render the MQTT topics."""
    rows = [
        (
            f"`{topic.translate(_PLACEHOLDERS)}`",
            str(channel.qos),
            "yes" if channel.retained else "no",
            channel.when,
        )
        for topic, channel in CHANNELS.items()
    ]
    return table(("topic", "QoS", "retained", "published"), rows)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a table of Markdown."""
    heads = tuple(heads)
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "families.md": {"families": families, "others": others, "variants": variants},
    "models.md": {"models": models},
    "mqtt.md": {"topics": topics},
    "precisions.md": {"precisions": precisions},
}


def current(name: str) -> str:
    """Render a document with its current tables."""
    text = (DOCS / name).read_text(encoding="utf-8")
    for marker, make in TABLES[name].items():
        text = filled(text, marker, make())
    return text


def filled(text: str, marker: str, content: str) -> str:
    """Return a document with new content after a marker."""
    head, rest = text.split(BEGIN.format(marker), 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN.format(marker)}\n{content}\n{END}{tail}"


if __name__ == "__main__":
    (DOCS / ASYNCAPI).write_text(asyncapi.document(), encoding="utf-8")
    for document in TABLES:
        (DOCS / document).write_text(current(document), encoding="utf-8")

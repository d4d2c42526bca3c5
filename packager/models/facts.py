"""The facts of a source model, as a manifest has them."""

from device_runtime.bundle.model_facts import ModelFacts
from packager.models.source import ModelSource


def model_facts(source: ModelSource) -> ModelFacts:
    """Describe a source model for a manifest."""
    return ModelFacts(
        name=_line(source.name),
        source=_line(source.origin),
        source_sha256=source.digest,
        architecture=_line(source.architecture),
        parameters=source.parameters,
        license=_line(source.license),
    )


def _line(text: str) -> str:
    """Convert a name or a licence, which a model brings with it, to a line as manifests take it."""
    return "".join(c if c.isprintable() else "?" for c in text)[:512]

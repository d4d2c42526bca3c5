"""Model sources that are refused."""

from pathlib import Path

import pytest

from packager.errors import ModelSourceError
from packager.models.source import resolve


def refused(model: Path | str) -> str:
    """The message and the hint with which a model is refused."""
    with pytest.raises(ModelSourceError) as caught:
        resolve(str(model))
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"

"""What the host writes stays within the bounds of the format, whatever a model brings with it."""

from pathlib import Path

import msgspec
import pytest

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.quantization import PromptAnswer
from device_runtime.bundle.reader import open_bundle
from device_runtime.errors import BundleError
from packager import bundle, tree
from packager.build import _slug
from packager.genai.folder import component
from packager.models.facts import model_facts
from packager.models.source import ModelSource
from packager.report import tables
from tests.support.bundles import draft


def test_odd_names_of_a_model_are_made_to_fit(tmp_path: Path) -> None:
    source = ModelSource(
        kind="gguf",
        name="\u202e\n" + "é" * 600,
        origin="file: a\x1b[2J",
        path=tmp_path,
        digest="0" * 64,
        architecture="LlamaForCausalLM",
        license="Permission is hereby granted,\nfree of charge, " * 100,
        parameters=1,
    )
    changed = draft().replaced(id=_slug(source.name * 2), model=model_facts(source))
    assert schema.decode(schema.encode(changed.manifest)) == changed.manifest
    assert _slug("_odd") == "odd"
    assert _slug("É.") == "model"


@pytest.mark.usefixtures("own_cache")
def test_file_that_compresses_like_a_bomb_is_stored_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "zeros").write_bytes(bytes(1 << 20))
    (folder / "text").write_bytes(b"A text about nothing. " * 100)
    parts = bundle.pack(tree.read(folder), schema.MODEL_FOLDER, {"test": "bomb"}, component)
    stored = {part.record.path: part.record.blob for part in parts}
    zeros, text = stored["model/zeros"], stored["model/text"]
    assert zeros is not None
    assert zeros.compression == "none"
    assert text is not None
    assert text.compression == "zstd"
    changed = msgspec.structs.replace(
        draft().manifest, kit=None, records=tuple(part.record for part in parts)
    )
    assert schema.decode(schema.encode(changed)) == changed


def test_text_of_a_bundle_cannot_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers have line breaks and any other character; `inspect` shows what is in them."""
    odd = "a\x1b[2J\x07[bold]\nb\x9b31m\u202e"
    quantization = msgspec.structs.replace(
        draft().manifest.quantization,
        answers=(PromptAnswer(prompt=odd, reference=odd, quantized=odd),),
    )
    path = draft().replaced(quantization=quantization).write(tmp_path / "b.epk")
    with open_bundle(path) as bundle:
        tables.inspect_text(path, bundle)
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    assert "\\x1b[2J" in shown
    assert "[bold]" in shown


def test_refusal_cannot_control_the_terminal(tmp_path: Path) -> None:
    text = schema.encode(draft().manifest).replace(
        b'"component": "model"', b'"component": "\\u001b"'
    )
    with pytest.raises(BundleError, match=r"Invalid enum value") as caught:
        schema.decode(text)
    assert "\x1b" not in str(caught.value)

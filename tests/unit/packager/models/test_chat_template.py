"""A chat template from the user, and what is told of a model without one."""

import json
import shutil
from pathlib import Path

import pytest

from device_runtime.tokenizer.templates import ChatTemplates
from packager.errors import ModelSourceError
from packager.models import chat_template, tokenizers
from packager.models.source import as_hf_folder, hf_folder, resolve
from tests.support import tiny_gguf

pytestmark = pytest.mark.usefixtures("own_cache", "jobs_here")

TEMPLATE = "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}"
QUESTION = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jinja"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture
def bare(tiny_hf: Path, tmp_path: Path) -> Path:
    """The tiny model without its template."""
    folder = Path(shutil.copytree(tiny_hf, tmp_path / "bare"))
    (folder / "chat_template.jinja").unlink()
    return folder


def test_template_takes_the_place_of_the_models_own(tiny_hf: Path, file: Path) -> None:
    source = resolve(str(tiny_hf))
    changed = chat_template.given(source, file)
    assert changed.digest != source.digest
    folder = as_hf_folder(changed)
    assert folder == hf_folder(changed) != tiny_hf
    assert ChatTemplates.of(folder).render(QUESTION) == "[user] Hi\n"
    assert (folder / "model.safetensors").samefile(tiny_hf / "model.safetensors")
    assert ChatTemplates.of(as_hf_folder(source)).render(QUESTION) != "[user] Hi\n"


def test_template_may_name_tokens_of_the_model(tiny_hf: Path, file: Path) -> None:
    file.write_text("{{ bos_token + messages[0].content + eos_token }}")
    chat_template.given(resolve(str(tiny_hf)), file)


def test_gguf_file_stays_one(bare: Path, tiny_hf: Path, file: Path, tmp_path: Path) -> None:
    gguf = tiny_gguf.make_gguf(tiny_hf, tmp_path / "tiny.gguf")
    changed = chat_template.given(resolve(str(gguf)), file)
    assert (changed.kind, changed.path) == ("gguf", gguf)
    assert ChatTemplates.of(as_hf_folder(changed)).render(QUESTION) == "[user] Hi\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{% if %}", "does not render a question: .*Expected an expression"),
        (b"{{ raise_exception('no') }}", "does not render a question: .*no"),
        (b"always the same", "leaves the question out"),
        (b"", "does not render a question"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_template_that_cannot_be_used_is_refused(
    tiny_hf: Path, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "wrong.jinja"
    path.write_bytes(content)
    with pytest.raises(ModelSourceError, match=problem) as caught:
        chat_template.given(resolve(str(tiny_hf)), path)
    assert caught.value.hint


def test_onnx_folder_takes_none(tiny_onnx: Path, file: Path) -> None:
    with pytest.raises(ModelSourceError, match="is ONNX"):
        chat_template.given(resolve(str(tiny_onnx)), file)


def test_model_without_a_template_is_told(
    bare: Path, tiny_onnx: Path, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizers.check(resolve(str(bare)))
    assert "has no chat template" in (told := capsys.readouterr().err)
    assert "--chat-template FILE" in told
    tokenizers.check(chat_template.given(resolve(str(bare)), file))
    assert "chat template" not in capsys.readouterr().err
    onnx = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    (onnx / "chat_template.jinja").unlink()
    tokenizers.check(resolve(str(onnx)))
    assert "has no chat template" in capsys.readouterr().err


def test_gguf_file_that_cuts_texts_in_an_unknown_way_is_told(
    tiny_hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cut, told in (("gpt-2", False), ("brand-new", True)):
        path = tiny_gguf.make_gguf(tiny_hf, tmp_path / f"{cut}.gguf", cut=cut)
        tokenizers.check(resolve(str(path)))
        assert ("not known here (brand-new)" in capsys.readouterr().err) is told


def test_onnx_folder_with_a_damaged_tokenizer_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelSourceError, match=r"tokenizer\.json does not load") as caught:
        tokenizers.check(resolve(str(folder)))
    assert "Download" in caught.value.hint


def test_onnx_folder_that_needs_a_token_without_a_row_is_refused(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_onnx, tmp_path / "onnx"))
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["vocab_size"] = 2
    path.write_text(json.dumps(config))
    with pytest.raises(ModelSourceError, match=r"needs the tokens .*<\|im_end\|>"):
        tokenizers.check(resolve(str(folder)))

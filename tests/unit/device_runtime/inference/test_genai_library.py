"""The library of ONNX Runtime GenAI, by its C functions."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_runtime.inference import genai_library
from device_runtime.inference.genai_library import Loading, Model
from device_runtime.inference.genai_objects import Generator, NamedTensors, Tensor


def test_model_that_does_not_load_says_so_when_it_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {}}}')
    loading = Loading(tmp_path, 1, context_length=8)
    with pytest.raises(RuntimeError):
        loading.model()
    missing = Loading(tmp_path / "missing", 1, context_length=8)
    with pytest.raises(OSError, match="genai_config"):
        missing.model()


def test_error_has_the_librarys_own_words() -> None:
    with pytest.raises(RuntimeError, match="missing"):
        genai_library.create("OgaCreateConfig", b"/missing")


def test_array_of_unknown_elements_is_refused() -> None:
    with pytest.raises(RuntimeError, match="complex64"):
        Tensor.of(np.zeros(2, np.complex64))
    with pytest.raises(RuntimeError, match="complex64"):
        NamedTensors({"a": np.zeros(2, np.complex64)})


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.float16, np.bool_])
def test_tensor_holds_a_copy(kind: type[np.generic]) -> None:
    array = np.arange(6).astype(kind).reshape(2, 3).T
    copy = Tensor.of(array).as_numpy()
    assert copy.dtype == kind
    assert copy.tolist() == array.tolist()


def test_model_begins_to_load_before_numpy_is_imported() -> None:
    code = (
        "import sys, device_runtime.commands.engine\n"
        "assert not {'numpy', 'tokenizers', 'jinja2', 'onnxruntime_genai'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_generator_follows_the_model(tiny_onnx: Path) -> None:
    model = Model(tiny_onnx, {}, None)
    generator = Generator(model, max_length=16, do_sample=False)
    generator.append_tokens(np.array([1, 2, 3], np.int32)[::-1])
    logits = generator.get_logits()
    assert logits.dtype == np.float32
    assert logits.shape[:2] == (1, 1)
    chosen = np.zeros_like(logits)
    chosen[..., 5] = 1
    generator.set_logits(chosen)
    generator.generate_next_token()
    assert list(generator.get_next_tokens()) == [5]
    assert generator.get_sequence(0) == [3, 2, 1, 5]
    generator.rewind_to(3)
    with pytest.raises(RuntimeError):
        generator.get_output("missing")


def test_program_ends_well_with_objects_alive(tiny_onnx: Path) -> None:
    code = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from device_runtime.inference.genai_library import Loading, Model\n"
        "from device_runtime.inference.genai_objects import Generator\n"
        f"model = Model(Path({str(tiny_onnx)!r}), {{}}, None)\n"
        "generator = Generator(model, max_length=16)\n"
        "generator.append_tokens(np.array([1, 2], np.int32))\n"
        f"later = Loading(Path({str(tiny_onnx)!r}), 1, context_length=8)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The models that are compared, in the quantized forms of each runtime: made here, in the cache."""

import functools
import pydoc_data.topics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device_runtime.tokenizer.tokenizer import Tokenizer
from packager import cache, console, machine, profile
from packager.evaluation import texts
from packager.genai.weight_files import model_bytes
from packager.models.source import ModelSource, as_hf_folder, resolve
from packager.quantize import candidate
from packager.quantize.subject import Subject
from packager.recipes import recipes
from scripts.bench import shapes
from scripts.bench.llama import Llama

PROFILE = "cpu-x86_64"

Runtime = Literal["edgepack", "onnxruntime-genai", "llama.cpp", "transformers"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The comparison of a model: its forms, and what they do.

    Attributes:
        recipes: edgepack's.
        types: llama.cpp's types; `own` is a GGUF file that the model came as.
        first: token counts of a short prompt and what follows it.
        second: token counts of a long prompt and what follows it.
    """

    recipes: tuple[str, ...]
    types: tuple[str, ...]
    first: tuple[int, int] = (32, 64)
    second: tuple[int, int] = (512, 32)


OWN = "own"
PLANS: Mapping[str, Plan] = {
    "smollm2-135m": Plan(
        recipes=("gguf", "int4-rtn", "int4-gptq-mixed"),
        types=(OWN, "Q4_0", "Q4_K_S", "Q4_K_M"),
    ),
    "gemma3-270m": Plan(recipes=("gguf", "int4-rtn"), types=(OWN, "Q4_0", "Q5_K_M")),
    "llama3.2-1b": Plan(
        recipes=("int4-rtn",), types=("Q4_0", "Q4_K_M"), first=(32, 32), second=(512, 16)
    ),
    "phi3.5-mini": Plan(
        recipes=("int4-rtn",), types=("Q4_0", "Q4_K_M"), first=(32, 16), second=(512, 16)
    ),
}
"""Models of the catalog. Those whose weights no package has are randomly filled (`shapes`)."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A quantized form of a model, and the runtime that runs it.

    Attributes:
        runtime: the runtime.
        kind: recipe, type or dtype.
        path: folder or file.
        size: size of graph and weights, bytes.
        cache_bytes: size of the KV cache of one token; 0 if it is not known.
    """

    runtime: Runtime
    kind: str
    path: Path
    size: int
    cache_bytes: int = 0

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.runtime} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, in all its forms.

    Attributes:
        name: name in the catalog.
        random: its weights are randomly filled.
        plan: what is compared of it.
        source: where the weights come from.
        forms: its forms.
    """

    name: str
    random: bool
    plan: Plan
    source: ModelSource
    forms: tuple[Form, ...]

    @property
    def chats(self) -> bool:
        """True if it has a chat template, which a base model lacks."""
        return any((form.path / "chat_template.jinja").exists() for form in self.forms)

    @functools.cached_property
    def tokens(self) -> list[int]:
        """Token ids of a text from outside, from which prompts are cut."""
        (folder, *_) = (form.path for form in self.forms if form.runtime == "edgepack")
        return Tokenizer(folder).encode(outside().read_text(encoding="utf-8"), special=False)

    def prompt(self, number: int, length: int) -> list[int]:
        """Return a prompt, another one for each number."""
        start = number * length % (len(self.tokens) - length)
        return self.tokens[start : start + length]


def outside() -> Path:
    """Return a text that nothing was calibrated on: the topics of Python's documentation."""

    def write(folder: Path) -> None:
        text = "\n\n".join(pydoc_data.topics.topics.values())
        (folder / "topics.txt").write_text(text, encoding="utf-8")

    return cache.stage("bench", {"topics": sys.version}, write) / "topics.txt"


def prepared(name: str, llama: Llama) -> Model:
    """Return a model of `PLANS`; make the forms that are not in the cache.

    Raises:
        PackagerError: a form cannot be made.
    """
    plan, random = PLANS[name], name in shapes.CONFIGS
    source = resolve(str(_random(name)) if random else name)
    forms = [
        *(_edgepack(source, recipe) for recipe in plan.recipes),
        *_plain(source),
        *_llama(source, plan, llama),
    ]
    # In the dtype that this machine multiplies fastest.
    dtype, width = ("bfloat16", 2) if machine.multiplies_bfloat16() else ("float32", 4)
    size = source.parameters * width
    forms.append(Form(runtime="transformers", kind=dtype, path=as_hf_folder(source), size=size))
    return Model(name=name, random=random, plan=plan, source=source, forms=tuple(forms))


def reference(source: ModelSource) -> Path:
    """Return the reference model's results on the text from outside (`texts.prepare`)."""
    return texts.prepare(source, eval_text=outside(), calibrate=False)


def _random(name: str) -> Path:
    """Return the Hugging Face folder of a randomly filled model."""

    def write(folder: Path) -> None:
        with console.step(f"Writing a model of the shape of {name}"):
            shapes.write(name, folder / name)

    return cache.stage("bench", {"shape": dict(shapes.CONFIGS[name])}, write) / name


def _edgepack(source: ModelSource, recipe: str) -> Form:
    subject = Subject(
        source=source,
        profile=profile.load(PROFILE),
        text=None,
        calibration=functools.cache(lambda: texts.prepare(source) / "calibration.npy"),
        trust_remote_code=False,
        output=cache.root() / "bench",
    )
    built = candidate.make(subject, recipes.find(recipe))
    return Form(
        runtime="edgepack",
        kind=recipe,
        path=built.folder,
        size=built.model_bytes,
        cache_bytes=built.graph.cache_bytes,
    )


def _plain(source: ModelSource) -> list[Form]:
    """Build a model with the model builder as it is, without edgepack's pass; none if it fails."""

    def build(folder: Path) -> None:
        command: list[str | Path] = [
            *(sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"),
            *("-i", as_hf_folder(source), "-o", folder / "model", "-c", folder / "scratch"),
            *("--extra_options", "hf_token=false"),
        ]
        with console.step(f"Building {source.name} with the plain model builder"):
            subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    try:
        folder = cache.stage("bench", {"plain": source.digest}, build) / "model"
    except subprocess.CalledProcessError:
        # Gemma 3: it reads one set of RoPE parameters, and the model has one for each layer type.
        console.note(f"the plain model builder does not build {source.name}")
        return []
    size = model_bytes(folder)
    return [Form(runtime="onnxruntime-genai", kind="int4", path=folder, size=size)]


def _llama(source: ModelSource, plan: Plan, llama: Llama) -> list[Form]:
    """Write GGUF files; quantize what is not the model's own file from its exact weights."""

    def write_exact(folder: Path) -> None:
        with console.step(f"Writing {source.name} as GGUF"):
            if source.kind == "gguf":
                llama.quantize(source.path, folder / "exact.gguf", "F32")
            else:
                shapes.write_gguf(source.path, folder / "exact.gguf")

    def quantized(kind: str) -> Path:
        def write(folder: Path) -> None:
            exact = cache.stage("bench", {"exact": source.digest}, write_exact) / "exact.gguf"
            with console.step(f"Quantizing {source.name} to {kind} with llama.cpp"):
                llama.quantize(exact, folder / f"{kind}.gguf", kind)

        inputs = {"gguf": source.digest, "type": kind, "version": llama.about()[0]}
        return cache.stage("bench", inputs, write) / f"{kind}.gguf"

    forms = []
    for kind in plan.types:
        path = source.path if kind == OWN else quantized(kind)
        label = path.stem.rpartition(".")[2].rpartition("-")[2].upper() if kind == OWN else kind
        size = path.stat().st_size
        forms.append(Form(runtime="llama.cpp", kind=label, path=path, size=size))
    return forms

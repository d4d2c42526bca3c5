"""Check a model package: ONNX Runtime opens it, and ONNX Runtime GenAI continues a prompt with it.

ONNX Runtime GenAI 0.18 has the functions for packages, but its wheels are built without them: they
look for experimental functions of ONNX Runtime, which are stable ones of other names in 1.31. So
ONNX Runtime chooses the variant, resolves the references to shared assets and loads the graph, and
ONNX Runtime GenAI loads a folder that the variant's files are laid out in.
"""

import os
import platform
from ctypes import c_char_p, c_int, c_void_p, cast
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec

from device_runtime import onnx_api
from device_runtime.onnx_api import Function, Functions
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.jobs import generation
from packager.jobs.job import Job, JobRefusedError, Work

PROMPT = "1, 2, 3, 4,"
MAX_TOKENS = 16

_VERSION = 31
_GET_MODEL_PACKAGE_API = 427
"""Place of the function in the table `OrtApi` (onnxruntime_c_api.h)."""


class _Function(IntEnum):
    """Places of functions in the table `OrtModelPackageApi` (onnxruntime_c_api.h)."""

    CREATE_OPTIONS_FROM_SESSION_OPTIONS = 0
    CREATE_CONTEXT = 2
    RESOLVE_STRING_REF = 10
    SELECT_COMPONENT = 11
    GET_SELECTED_VARIANT_FOLDER_PATH = 14
    CREATE_SESSION = 15


class CheckedPackage(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check.

    Attributes:
        opened: whether ONNX Runtime opened the package, which is tried on Linux.
        tokens: number of tokens that are the model's own; 0 if none were compared.
    """

    opened: bool
    tokens: int


class CheckPackage(Job[CheckedPackage], frozen=True, kw_only=True):
    """Check the CPU's variant of the package in the target.

    Attributes:
        model: ONNX GenAI folder that the package was made from.
        component: name of its component.
        variant: folder of the variant.
        references: references to shared assets.
        folder: ONNX GenAI folder with the files of the variant.
        compare: whether to continue a prompt; a model that also sees or hears is only loaded.
    """

    model: Path
    component: str
    variant: Path
    references: tuple[str, ...]
    folder: Path
    compare: bool

    def run(self, work: Work) -> CheckedPackage:
        """Check the package.

        Raises:
            JobRefusedError: ONNX Runtime chooses another variant, or tokens differ.
        """
        opened = platform.system() == "Linux"
        if opened:
            self._open(work.target)
        model = generation.load(self.folder)
        if not self.compare:
            return CheckedPackage(opened=opened, tokens=0)
        prompt = Tokenizer(self.folder).encode(PROMPT, special=True)
        tokens = _continued(model, self.folder, prompt)
        if tokens != _continued(generation.load(self.model), self.model, prompt):
            raise JobRefusedError("the package continues a prompt otherwise than its model")
        return CheckedPackage(opened=opened, tokens=len(tokens))

    def _open(self, package: Path) -> None:
        api = onnx_api.load(_VERSION)
        packages = Functions(api.function(_GET_MODEL_PACKAGE_API, c_void_p)(), api)
        environment = onnx_api.environment(api)
        options = packages.create(
            _Function.CREATE_OPTIONS_FROM_SESSION_OPTIONS,
            *(environment, api.create(Function.CREATE_SESSION_OPTIONS)),
        )
        context = packages.create(_Function.CREATE_CONTEXT, _text(package))
        chosen = packages.create(
            _Function.SELECT_COMPONENT, context, _text(self.component), options
        )
        path = packages.create(_Function.GET_SELECTED_VARIANT_FOLDER_PATH, chosen)
        folder = Path(os.fsdecode(cast(path, c_char_p).value or b""))
        if folder.resolve() != self.variant.resolve():
            raise JobRefusedError(f"ONNX Runtime chooses the variant {folder.name}")
        for reference in self.references:
            # The last argument but one: the folder must exist.
            packages.create(
                *(_Function.RESOLVE_STRING_REF, context, _text(folder), _text(reference)), c_int(1)
            )
        packages.create(_Function.CREATE_SESSION, environment, chosen, c_void_p(None))


def _text(value: str | Path) -> c_char_p:
    return c_char_p(os.fsencode(value))


def _continued(model: Any, folder: Path, prompt: Any) -> list[int]:
    """Return the greedy continuation of a prompt, up to `MAX_TOKENS`."""
    runner = generation.generator(model, folder, len(prompt) + MAX_TOKENS)
    runner.append_tokens(prompt)
    tokens: list[int] = []
    while len(tokens) < MAX_TOKENS and not runner.is_done():
        runner.generate_next_token()
        tokens.append(int(runner.get_next_tokens()[0]))
    return tokens

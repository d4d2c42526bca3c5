"""The machine and the versions that the bench runs with."""

import importlib.metadata
import platform
import re
from pathlib import Path
from typing import Any

import psutil

import device_runtime
from device_runtime.processor import cores
from packager import cache
from packager.units import gigabytes
from scripts.bench.llama import Llama
from scripts.bench.models import Model

FLAGS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
"""Flags of a processor that make quantized models faster."""
PACKAGES = ("onnxruntime", "onnxruntime-genai", "torch", "transformers")


def about(model: Model, llama: Llama) -> dict[str, Any]:
    """Return what figures of a model depend on: machine, versions and the forms of the model."""
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    of_cpu = flags[1].split() if flags else []
    version, instructions = llama.about()
    return {
        "cpu": name[1] if name else platform.machine(),
        "cores": cores(),
        "memory": gigabytes(psutil.virtual_memory().total),
        "flags": [flag for flag in FLAGS if flag in of_cpu],
        "system": f"{platform.system()} {platform.release()}",
        "versions": [
            f"edgepack {device_runtime.__version__}",
            version,
            *(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES),
            f"Python {platform.python_version()}",
        ],
        "llama.cpp": instructions,
        "runtime": _sources(Path(device_runtime.__file__).parent),
        "random": model.random,
        "workloads": [list(model.plan.first), list(model.plan.second)],
        "forms": {form.name: form.size for form in model.forms},
    }


def _sources(package: Path) -> str:
    """Return the digest of a package's sources."""
    files = sorted(package.rglob("*.py"))
    return cache.key({str(file.relative_to(package)): cache.file_digest(file) for file in files})

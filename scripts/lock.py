"""Write the lock files from pyproject.toml, with the pinned uv: `python -m scripts.lock`.

Versions stay while they satisfy pyproject.toml; options go to `uv pip compile`: `--upgrade`,
or `--upgrade-package NAME`. A package has one version, which all supported Pythons take; the
clients that the server is tried with are locked by themselves. `locks/torch-cpu.txt` is written by
hand.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from packager.kit.contents import normal
from packager.kit.lock import versions

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "locks"
HEADER = "# {} Written by `python -m scripts.lock`.\n"
FILES = {
    "host.txt": "What a checkout installs, but for PyTorch.",
    "kits.txt": "Builds of ONNX Runtime for kits alone.",
    "torch.txt": "PyTorch as the package index has it, with the libraries for GPUs that it loads.",
}
CLIENTS = ("clients", "clients-openai-2")
"""Groups of clients; the folder of their programs has their lock files, which are not shipped."""
TORCH = re.compile(r"torch|triton|(cuda|nvidia)-.*")


def compiled(options: list[str]) -> str:
    """Resolve everything together; versions that the lock files have are preferred."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "locked.txt")
        whole.write_text("".join(f"{name}=={version}\n" for name, version in versions().items()))
        compile_into(whole, "pyproject.toml", "--all-extras", "--group", "kits", *options)
        return whole.read_text()


def compile_into(file: Path, *options: str) -> None:
    """Resolve what the options name; versions that the file has are preferred."""
    command: list[str | Path] = [
        *("uv", "pip", "compile", "--quiet", "--output-file", file),
        *("--universal", "--python-version", "3.11", "--fork-strategy", "fewest"),
        *("--generate-hashes", "--no-header", "--no-annotate"),
    ]
    subprocess.run([sys.executable, "-m", *command, *options], check=True, cwd=ROOT)


def split(whole: str) -> dict[str, str]:
    """Return the contents of the lock files; each package is in one."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    kits = {normal(Requirement(line).name) for line in groups["kits"]}
    files = {name: HEADER.format(title) for name, title in FILES.items()}
    for entry in re.findall(r"^\S.*\n(?:[ ].*\n)*", whole, re.MULTILINE):
        name = entry.partition("==")[0]
        file = "kits.txt" if name in kits else "torch.txt" if TORCH.fullmatch(name) else "host.txt"
        files[file] += entry
    return files


def main() -> None:
    """Write the files."""
    options = sys.argv[1:]
    for name, text in split(compiled(options)).items():
        (LOCKS / name).write_text(text)
    for group in CLIENTS:
        file = ROOT / "tests" / "clients" / "python" / f"{group}.txt"
        compile_into(file, "--group", group, *options)


if __name__ == "__main__":
    main()

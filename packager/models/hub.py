"""Models of the Hugging Face hub: the files needed of one, fetched into the cache.

The cache has a folder for each model: `refs/` with the commit that each revision was last seen at,
COMMIT.json with the files of a commit, and the folder COMMIT with those that were fetched. What is
complete there needs no network if the revision is a commit, or if the hub cannot be reached.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import msgspec

from device_runtime.bundle.paths import safe_path
from packager import cache, console
from packager.aside import written_aside
from packager.errors import ModelSourceError
from packager.models import hub_api
from packager.models.download import HubFile, download, missing
from packager.models.folder import HF_FILES, check_config
from packager.models.stored_weights import PICKLED

_NAME = r"[A-Za-z0-9][\w.-]*"
_ID = re.compile(
    rf"(?P<repository>{_NAME}/{_NAME})"
    r"(?::(?P<tag>[\w.-]+)|/(?P<file>[\w./ +-]+\.gguf))?"
    r"(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf")
_OTHER_GGUF = re.compile(r"mmproj|imatrix", re.IGNORECASE)
"""GGUF files that are not a text model: projectors of images, importance matrices."""


@dataclass(frozen=True, kw_only=True)
class HubId:
    """A model on the hub, as the user names it: `ORG/NAME`, `ORG/NAME:TAG` or `ORG/NAME/FILE.gguf`.

    Attributes:
        repository: `ORG/NAME`.
        revision: branch, tag or commit after the `@`.
        tag: part of the name of a GGUF file, such as Q4_K_M; None if not given.
        file: path of a GGUF file in the repository; None if not given.
    """

    repository: str
    revision: str
    tag: str | None
    file: str | None


def parse(model: str) -> HubId | None:
    """Read a hub id; None if the text is something else, such as a path."""
    match = _ID.fullmatch(model)
    # ORG/NAME.gguf is a file that is missing, and so is a third part of a folder that is there.
    if match is None or match["repository"].endswith(".gguf"):
        return None
    if match["file"] is not None and Path(model).parent.is_dir():
        return None
    return HubId(
        repository=match["repository"],
        revision=match["revision"] or "main",
        tag=match["tag"],
        file=match["file"],
    )


def fetch(
    wanted: HubId,
    *,
    trust_remote_code: bool,
    check: Callable[[Path, str], object] | None = None,
) -> tuple[Path, str]:
    """Download what is missing of a model into the cache.

    Args:
        wanted: the model.
        trust_remote_code: fetch Python code that comes with the model.
        check: checks the configuration of a folder before its weights are fetched; None for that of
            a language model.

    Returns:
        A folder with safetensors, or a GGUF file; and the place on the hub, with the commit.

    Raises:
        ModelSourceError: the model is not found, not accessible, not reachable, or has no file in a
            supported format.
        ResourceError: the disk is too small.
    """
    home = cache.root() / "hub" / wanted.repository.replace("/", "--")
    home.mkdir(parents=True, exist_ok=True)
    with cache.locked(home / ".lock"), hub_api.explained(wanted.repository, wanted.revision):
        commit, files, unreached = _files(wanted, home)
        gguf = _choose_gguf(wanted, [file.path for file in files])
        patterns = [p for p in HF_FILES if trust_remote_code or p != "*.py"]
        chosen = [
            file
            for file in files
            if file.path == gguf or (gguf is None and _matches(file.path, patterns))
        ]
        folder = home / commit
        if unreached is not None and missing(chosen, folder):
            raise unreached
        url = functools.partial(hub_api.url, wanted.repository, commit)
        if gguf is None:
            # Gigabytes of a model that cannot be built are not worth the wait.
            download([file for file in chosen if not _weights(file)], folder, url)
            if check is None:
                check = functools.partial(check_config, trust_remote_code=trust_remote_code)
            check(folder, wanted.repository)
        download(chosen, folder, url)
    if gguf is None:
        return folder, f"{wanted.repository}@{commit}"
    return folder / gguf, f"{wanted.repository}/{gguf}@{commit}"


def _weights(file: HubFile) -> bool:
    return file.path.endswith(".safetensors")


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Compare a path with patterns of its depth: other formats of a model live in subfolders."""
    return any(
        fnmatch.fnmatchcase(path, pattern) and path.count("/") == pattern.count("/")
        for pattern in patterns
    )


class _LargeFile(msgspec.Struct, frozen=True):
    sha256: str


class _Sibling(msgspec.Struct, frozen=True):
    rfilename: str
    size: int
    blob_id: str = msgspec.field(name="blobId")
    lfs: _LargeFile | None = None


class _ModelInfo(msgspec.Struct, frozen=True):
    sha: str
    siblings: tuple[_Sibling, ...]


def _files(wanted: HubId, home: Path) -> tuple[str, tuple[HubFile, ...], Exception | None]:
    """Return the commit of a revision, its files, and why the hub could not be reached.

    From the cache if the revision is a commit, or if the hub cannot be reached; else from the hub.
    """
    ref = home / "refs" / quote(wanted.revision, safe="")
    if _COMMIT.fullmatch(wanted.revision):
        stored = _stored(home, wanted.revision)
        if stored is not None:
            return wanted.revision, stored, None
    path = f"models/{wanted.repository}/revision/{quote(wanted.revision, safe='')}"
    try:
        info = _checked(hub_api.get(path, {"blobs": "true"}, _ModelInfo))
    except hub_api.unreachable() as error:
        commit = ref.read_text(encoding="ascii") if ref.is_file() else ""
        stored = _stored(home, commit)
        if stored is None:
            raise
        console.note(f"the hub cannot be reached; looking for {wanted.repository} in the cache")
        return commit, stored, error
    files = tuple(
        HubFile(
            path=sibling.rfilename,
            size=sibling.size,
            digest=sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id,
        )
        for sibling in info.siblings
    )
    _write(home / f"{info.sha}.json", msgspec.json.encode(files))
    _write(ref, info.sha.encode())
    return info.sha, files, None


def _stored(home: Path, commit: str) -> tuple[HubFile, ...] | None:
    """Return the files of a commit as the cache knows them; None if it does not."""
    path = home / f"{commit}.json"
    if not path.is_file():
        return None
    return msgspec.json.decode(path.read_bytes(), type=tuple[HubFile, ...])


def _checked(info: _ModelInfo) -> _ModelInfo:
    """Refuse facts from the hub that would lead out of the cache's folder."""
    bad = [name for name in (s.rfilename for s in info.siblings) if not safe_path(name)]
    if bad or not _COMMIT.fullmatch(info.sha):
        raise ModelSourceError(
            f"the hub lists invalid names: {', '.join(map(repr, bad[:4])) or repr(info.sha)}",
            hint="Check HF_ENDPOINT, and report it to the model's publisher.",
        )
    return info


def _write(path: Path, content: bytes) -> None:
    with written_aside(path, hint="Set EDGEPACK_CACHE to a folder that you may write to.") as file:
        file.write(content)


def _choose_gguf(wanted: HubId, paths: Sequence[str]) -> str | None:
    """Return the GGUF file to take; None if the model's safetensors are to be taken.

    Raises:
        ModelSourceError: no file fits, or several do.
    """
    ggufs = [p for p in paths if p.endswith(".gguf") and not _OTHER_GGUF.search(p)]
    named = wanted.tag is not None or wanted.file is not None
    if not named and any("/" not in p and p.endswith(".safetensors") for p in paths):
        return None
    if not ggufs:
        raise _without_weights(wanted, paths)
    fitting = [p for p in ggufs if _fits(wanted, p)]
    if not fitting:
        raise ModelSourceError(
            f"{wanted.repository} has no file {wanted.file or wanted.tag}", hint=_those(ggufs)
        )
    if len({_SPLIT.sub("", path) for path in fitting}) > 1:
        raise ModelSourceError(
            f"{wanted.repository} has {len(fitting)} GGUF files"
            + (f" with {wanted.tag} in their names" if wanted.tag else ""),
            hint=f"Choose one, by --model {wanted.repository}:TAG or ORG/NAME/FILE. "
            + _those(fitting),
        )
    split = _SPLIT.search(fitting[0])
    if split is not None:
        raise ModelSourceError(
            f"{fitting[0]} is one of {int(split[1])} parts",
            hint="Download and join them (llama-gguf-split --merge FIRST-PART WHOLE.gguf), or take "
            "another file. " + _those([path for path in ggufs if not _SPLIT.search(path)]),
        )
    return fitting[0]


def _fits(wanted: HubId, path: str) -> bool:
    if wanted.file is not None:
        return path == wanted.file
    if wanted.tag is None:
        return True
    word = rf"(?<![a-z0-9]){re.escape(wanted.tag)}(?![a-z0-9_])"
    return re.search(word, PurePosixPath(path).stem, re.IGNORECASE) is not None


def _those(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 12} more" if len(paths) > 12 else ""
    return f"It has {', '.join(sorted(paths)[:12]) or 'no other GGUF files'}{more}."


def _without_weights(wanted: HubId, paths: Sequence[str]) -> ModelSourceError:
    """Make the error for a model without weights in a supported format."""
    pickled = [path for path in paths if "/" not in path and path.endswith(PICKLED)]
    if pickled:
        return ModelSourceError(
            f"{wanted.repository} has its weights only as {', '.join(pickled[:4])}: pickle files, "
            "which can run code when loaded",
            hint="Use a model with safetensors.",
        )
    contents = ", ".join(sorted(paths)[:8]) or "no files"
    return ModelSourceError(
        f"{wanted.repository} has no weights (*.safetensors, *.gguf); it has {contents}",
        hint="Use a text model with safetensors or a GGUF file.",
    )

"""Downloads of models from the Hugging Face hub: resumable, and only the files needed."""

import os
import re
import sys
from pathlib import Path

from packager import cache, console
from packager.errors import ModelSourceError
from packager.models.folder import HF_FILES, PICKLED

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def looks_like_id(model: str) -> bool:
    """Return whether a name has the form ORG/NAME or ORG/NAME@REVISION."""
    return _ID.fullmatch(model) is not None and not model.endswith(".gguf")


def fetch(model: str, *, trust_remote_code: bool) -> tuple[Path, str]:
    """Download the missing files of a hub model into the cache; return its folder and commit.

    The access token comes from the environment (HF_TOKEN). Without a network, a complete earlier
    download is used.

    Raises:
        ModelSourceError: the model is not found, not accessible, not reachable, or has no
            safetensors.
    """
    import httpx2
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    match = _ID.fullmatch(model)
    assert match is not None
    name, revision = match[1], match[2]
    endpoint = os.environ.get("HF_ENDPOINT")
    patterns = [pattern for pattern in HF_FILES if trust_remote_code or pattern != "*.py"]
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        try:
            info = HfApi(endpoint=endpoint).model_info(name, revision=revision)
        except (httpx2.TransportError, errors.OfflineModeIsEnabled):
            console.note(f"the hub cannot be reached; looking for {model} in the cache")
        else:
            _check_files(model, [sibling.rfilename for sibling in info.siblings or ()])
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=cache.root() / "hub",
                allow_patterns=patterns,
                ignore_patterns="*/*",  # other formats of the same model live in subfolders
                endpoint=endpoint,
            )
        )
    except errors.GatedRepoError:
        raise ModelSourceError(
            f"{name} is gated: the hub requires you to accept its terms",
            hint="Accept them on the model's page, then set HF_TOKEN to your access token.",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelSourceError(
            f"{name} has no revision {revision!r} on the hub", hint="Check the part after the @."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelSourceError(
            f"{model} is neither a local path nor a model on the hub that you can access",
            hint="Check the name; for a private model, set HF_TOKEN to your access token.",
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx2.TransportError):
        raise ModelSourceError(
            f"{model} is not in the cache, and the hub cannot be reached",
            hint="Check the network (or HF_HUB_OFFLINE) and run the same command again: it "
            "resumes. Without the hub: --model with a folder, a GGUF file, or smollm2-135m.",
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise ModelSourceError(
            f"the hub responded with status {status} for {model}",
            hint="Set HF_TOKEN to a valid access token."
            if status in (401, 403)
            else "Run the same command again later: it resumes.",
        ) from None
    return folder, folder.name


def _check_files(model: str, names: list[str]) -> None:
    """Refuse, before any download, a model without weights in a supported format."""
    top = [name for name in names if "/" not in name]
    if any(name.endswith(".safetensors") for name in top):
        return
    pickled = [name for name in top if name.endswith(PICKLED)]
    if pickled:
        raise ModelSourceError(
            f"{model} has its weights only as {', '.join(pickled[:4])}: pickle files, which can "
            "run code when loaded",
            hint="Use a model with safetensors.",
        )
    if any(name.endswith(".gguf") for name in top):
        raise ModelSourceError(
            f"{model} contains GGUF files", hint="Download a file and pass its path with --model."
        )
    contents = ", ".join(sorted(names)[:8]) or "no files"
    raise ModelSourceError(
        f"{model} has no weights (*.safetensors); it has {contents}",
        hint="Use a text model with safetensors.",
    )

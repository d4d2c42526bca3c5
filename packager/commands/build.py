"""Commands that build bundles: `build` and `demo`."""

from pathlib import Path

import click

from packager import console
from packager.commands.options import (
    as_json,
    calibration_text_option,
    embedding_names,
    eval_text_option,
    model_option,
    passphrase_option,
    profile_option,
    recipe_names,
    speech_names,
    trust_option,
)


def _version(_context: click.Context, _option: click.Parameter, value: str) -> str:
    from device_runtime.bundle.manifest import is_version

    if not is_version(value):
        raise click.BadParameter("a version starts with a digit, for example 1.2.0")
    return value


def _key_ids(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    from device_runtime.bundle.signature import is_key_id

    if not all(map(is_key_id, values)):
        raise click.BadParameter("an id has 64 hexadecimal digits; edgepack keys list shows it")
    return values


@click.command()
@profile_option
@model_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The bundle to write."
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Merge this LoRA adapter (PEFT) into the model first.",
)
@click.option(
    "--chat-template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Use this chat template (Jinja) instead of the model's own.",
)
@click.option(
    "--embedding-model",
    metavar="MODEL",
    shell_complete=embedding_names,
    help="Put this embedding model into the bundle as well: all-minilm-l6-v2, a hub id or a folder "
    "as sentence-transformers writes it. `chat` is the model that answers: the means of its hidden "
    "states are poorer vectors.",
)
@click.option(
    "--speech-model",
    metavar="MODEL",
    shell_complete=speech_names,
    help="Put this speech model into the bundle as well, which writes recordings down: a Whisper, "
    "by its name (whisper-tiny, whisper-base.en; edgepack models), hub id or folder.",
)
@click.option("--text-only", is_flag=True, help="Leave out the vision part of a model that sees.")
@click.option("--model-only", is_flag=True, help="Leave out the runtime.")
@click.option(
    "--kit",
    "kit_source",
    type=click.Path(dir_okay=False),
    metavar="FILE|oci://REFERENCE",
    help="Take the runtime from a file of edgepack kit export or package, or from a registry.  "
    "[default: installed, imported, or frozen here]",
)
@click.option(
    "--recipe",
    shell_complete=recipe_names,
    help="Quantization recipe: a name (edgepack recipes), or auto: the smallest that meets the "
    "profile's limits.  [default: the profile's]",
)
@eval_text_option
@click.option(
    "--eval-images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Evaluate a model that sees on these pictures (JPEG, PNG, WebP); the question about "
    "NAME.jpg may be in NAME.txt.  [default: drawn pictures]",
)
@click.option(
    "--eval-audio",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Evaluate the speech model on these recordings (WAV, up to 30 seconds each).  [default: "
    "made sounds]",
)
@calibration_text_option
@click.option(
    "--allow-quality-loss",
    is_flag=True,
    help="Take the best recipe if none meets the profile's limits.",
)
@click.option(
    "--bundle-version",
    default="1.0.0",
    callback=_version,
    show_default=True,
    help="Human-readable version of the bundle.",
)
@click.option(
    "--sequence",
    type=click.IntRange(0, 2**53),
    default=1,
    show_default=True,
    help="Number for update checks on devices: increase it with each release.",
)
@trust_option
@click.option(
    "--sign-key",
    "sign_keys",
    metavar="KEY",
    multiple=True,
    help="Sign with this key: a name (edgepack keys list) or a file.  [default: default, which the "
    "first build makes]",
)
@click.option("--no-sign", is_flag=True, help="Leave the bundle unsigned.")
@passphrase_option
@click.option(
    "--trust-key",
    "trust_keys",
    metavar="KEY",
    multiple=True,
    help="Let the device trust this key as well, once the release has started there.",
)
@click.option(
    "--revoke-key",
    "revoke_keys",
    metavar="ID",
    multiple=True,
    callback=_key_ids,
    help="Let the device stop trusting the key with this id then, for good.",
)
@as_json
def build(
    profile_name: str,
    model: str,
    output: Path | None,
    adapter: Path | None,
    chat_template: Path | None,
    embedding_model: str | None,
    speech_model: str | None,
    text_only: bool,
    model_only: bool,
    kit_source: str | None,
    recipe: str | None,
    eval_text: Path | None,
    eval_images: Path | None,
    eval_audio: Path | None,
    calibration_text: Path | None,
    allow_quality_loss: bool,
    bundle_version: str,
    sequence: int,
    trust_remote_code: bool,
    sign_keys: tuple[str, ...],
    no_sign: bool,
    passphrase_file: Path | None,
    trust_keys: tuple[str, ...],
    revoke_keys: tuple[str, ...],
    as_json: bool,
) -> None:
    """Quantize a model for a device and pack it with the runtime into one bundle.

    \b
    Examples:
      edgepack build --profile raspberry-pi
      edgepack build --profile jetson-orin --model-only -o jetson.epk
      edgepack build --profile ./mine.toml --model ./my-finetune
      edgepack build --profile raspberry-pi --model ./base --adapter ./my-lora
      edgepack build --profile raspberry-pi --recipe int4-gptq --allow-quality-loss
      edgepack build --profile raspberry-pi --kit kit.tar
      edgepack build --profile raspberry-pi --embedding-model all-minilm-l6-v2
      edgepack build --profile raspberry-pi --speech-model whisper-tiny
    """
    from device_runtime.bundle.manifest import Trust
    from packager import build as bundle
    from packager import keys, profile, request
    from packager.registry import kits
    from packager.registry.access import Access
    from packager.report import tables

    if no_sign and (sign_keys or trust_keys or revoke_keys):
        raise click.UsageError(
            "--no-sign cannot be combined with --sign-key, --trust-key or --revoke-key: only a "
            "signed bundle changes a device's keys"
        )
    if kit_source is not None and model_only:
        raise click.UsageError("--kit cannot be combined with --model-only")
    if eval_audio is not None and speech_model is None:
        raise click.UsageError("--eval-audio is for a build with --speech-model")
    added = tuple(keys.public(key).pem.decode() for key in trust_keys)
    device = profile.load(profile_name)
    # Before the work, which takes minutes: a passphrase may have to be typed.
    signers = () if no_sign else keys.unlock(sign_keys, passphrase_file)
    kit = kits.take(kit_source, Access()) if kit_source is not None else None
    result = bundle.build(
        request.BuildRequest(
            profile=device,
            model=model,
            output=output,
            adapter=adapter,
            chat_template=chat_template,
            embedding_model=embedding_model,
            speech_model=speech_model,
            text_only=text_only,
            model_only=model_only,
            kit=kit,
            recipe=recipe,
            eval_text=eval_text,
            eval_images=eval_images,
            eval_audio=eval_audio,
            calibration_text=calibration_text,
            allow_quality_loss=allow_quality_loss,
            version=bundle_version,
            sequence=sequence,
            trust_remote_code=trust_remote_code,
            signers=signers,
            trust=Trust(add=added, revoke=revoke_keys),
        )
    )
    if as_json:
        console.result_json(tables.build_json(result))
    else:
        tables.build_text(result)


@click.command()
@model_option
@click.option("--mqtt", metavar="URL", help="Use this broker instead of starting one.")
@as_json
def demo(model: str, mqtt: str | None, as_json: bool) -> None:
    """Build for this machine, run the bundle, query it, show its MQTT status, stop everything."""
    from packager import demo as show

    result = show.demo(model, mqtt, (lambda _: None) if as_json else console.result_piece)
    if as_json:
        console.result_json(result)

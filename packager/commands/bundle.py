"""Commands on a finished bundle: `run`, `chat`, `bench`, `inspect`, `verify`."""

from pathlib import Path

import click

from packager import console
from packager.commands.options import as_json, bundle_argument


@click.command()
@bundle_argument
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the HTTP server on loopback.")
@click.option("--mqtt", metavar="URL", help="Report to this broker: mqtt://HOST:PORT")
@click.option("--generate", metavar="TEXT", help="Print one answer and exit, without a server.")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    help="Image for --generate, if the model sees; can be repeated.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Maximum length of that answer, tokens."
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer, or the URL, as JSON.")
def run(
    bundle: Path,
    port: int | None,
    mqtt: str | None,
    generate: str | None,
    image: tuple[Path, ...],
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Run a bundle on this machine, with the runtime inside the bundle.

    \b
    Examples:
      edgepack run BUNDLE.epk --port 8080
      edgepack run BUNDLE.epk --generate "Name the capital of France." --max-tokens 16
    """
    from packager import launch

    if generate is None and max_tokens is not None:
        raise click.UsageError("--max-tokens requires --generate")
    if generate is None and image:
        raise click.UsageError("--image requires --generate")
    if generate is not None and (port is not None or mqtt is not None):
        raise click.UsageError("--generate cannot be combined with --port or --mqtt")
    release = launch.unpack_for_host(bundle)
    arguments = ["serve"] if generate is None else ["generate"]
    if as_json:
        arguments.append("--json")
    if port is not None:
        arguments += ["--listen", f"127.0.0.1:{port}"]
    if mqtt is not None:
        arguments += ["--mqtt", mqtt]
    if max_tokens is not None:
        arguments += ["--max-tokens", str(max_tokens)]
    for file in image:
        arguments += ["--image", str(file)]
    if generate is not None:
        arguments += ["--", generate]
    launch.replace_process(release, arguments)


@click.command(context_settings={"ignore_unknown_options": True})
@bundle_argument
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def chat(bundle: Path, options: tuple[str, ...]) -> None:
    """Chat with a bundle's model in this terminal, with the runtime inside the bundle.

    OPTIONS are those of `edgepack-runtime chat`: --system, --temperature, --max-tokens ...

    \b
    Examples:
      edgepack chat BUNDLE.epk
      edgepack chat BUNDLE.epk --system "You are brief." --temperature 0.7
    """
    from packager import launch

    launch.replace_process(launch.unpack_for_host(bundle), ["chat", "--alone", *options])


@click.command(context_settings={"ignore_unknown_options": True})
@bundle_argument
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def bench(bundle: Path, options: tuple[str, ...]) -> None:
    """Measure a bundle's speed, memory and energy on this machine, with the runtime inside it.

    OPTIONS are those of `edgepack-runtime bench`: --rounds, --profile, --picture, --json.

    \b
    Examples:
      edgepack bench BUNDLE.epk
      edgepack bench BUNDLE.epk --rounds 10 --json --picture speed.svg > speed.json
    """
    from packager import launch

    launch.replace_process(launch.unpack_for_host(bundle), ["bench", *options])


@click.command()
@bundle_argument
@as_json
def inspect(bundle: Path, as_json: bool) -> None:
    """Show the contents of a bundle, without reading its data."""
    import msgspec

    from device_runtime.bundle.reader import open_bundle
    from packager import keys
    from packager.report import tables

    with open_bundle(bundle) as opened:
        if as_json:
            manifest = msgspec.to_builtins(opened.manifest)
            signatures = keys.signatures(opened)
            console.result_json(
                {"digest": opened.digest, "signatures": signatures, "manifest": manifest}
            )
        else:
            tables.inspect_text(bundle, opened)


@click.command()
@bundle_argument
@click.option(
    "--key",
    "required",
    metavar="KEY",
    multiple=True,
    help="Require the signature by this key: a name (edgepack keys list) or a public key's file.",
)
@as_json
def verify(bundle: Path, required: tuple[str, ...], as_json: bool) -> None:
    """Check every byte of a bundle, with the device's own verifier, and who signed it."""
    from device_runtime.bundle.reader import open_bundle
    from packager import keys
    from packager.report import tables

    public = [keys.public(key) for key in required]
    with open_bundle(bundle) as opened:
        keys.require(opened, public)
        signatures = keys.signatures(opened)
        total = sum(blob.size for blob in opened.manifest.blobs.values())
        with console.progress("Verifying", total) as advance:
            opened.verify(advance)
    if as_json:
        console.result_json({"ok": True, "digest": opened.digest, "signatures": signatures})
    else:
        signed = tables.signatures_text(signatures)
        console.result(f"{bundle} is intact, {signed}: {opened.digest}")

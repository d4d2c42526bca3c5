"""Commands for signing keys, `keys generate|list|export`, and `sign`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from packager import console
from packager.commands.options import as_json, bundle_argument, passphrase_option

if TYPE_CHECKING:
    from packager.private_keys import Algorithm


@click.group()
def keys() -> None:
    """Make, list and export the keys that sign bundles."""


@keys.command("generate")
@click.argument("name")
@click.option(
    "--algorithm",
    type=click.Choice(["ed25519", "ecdsa-p256"]),
    default="ed25519",
    show_default=True,
    help="Kind of the key.",
)
@passphrase_option
@as_json
def keys_generate(
    name: str, algorithm: "Algorithm", passphrase_file: Path | None, as_json: bool
) -> None:
    """Make a key pair; its private half is encrypted with a passphrase.

    \b
    Example:
      edgepack keys generate release
    """
    from packager import keys as store
    from packager.report import tables

    key = store.generate(name, algorithm, passphrase_file)
    if as_json:
        console.result_json(tables.key_json(key))
    else:
        console.result(f"made the key {key.name} ({key.public.id}): {key.private_file}")


@keys.command("list")
@as_json
def keys_list(as_json: bool) -> None:
    """List the keys of this host."""
    from packager import keys as store
    from packager.report import tables

    stored = store.stored()
    if as_json:
        console.result_json([tables.key_json(key) for key in stored])
    else:
        tables.keys_text(stored)


@keys.command("export")
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write."
)
@as_json
def keys_export(name: str, output: Path | None, as_json: bool) -> None:
    """Print the public half of a key, or write it to a file: what devices are given to trust it."""
    from packager import keys as store
    from packager.aside import written_aside

    key = store.public(name)
    if output is not None:
        with written_aside(output, "Choose another location with -o FILE.") as file:
            file.write(key.pem)
    if as_json:
        console.result_json({"id": key.id, "algorithm": key.algorithm, "pem": key.pem.decode()})
    elif output is None:
        console.result_piece(key.pem.decode())
    else:
        console.result(f"wrote {output} ({key.id})")


@click.command()
@bundle_argument
@click.option(
    "--key",
    "chosen",
    metavar="KEY",
    multiple=True,
    help="Sign with this key: a name (edgepack keys list) or a file.  [default: default]",
)
@passphrase_option
@as_json
def sign(
    bundle: Path, chosen: tuple[str, ...], passphrase_file: Path | None, as_json: bool
) -> None:
    """Add a signature to a BUNDLE, beside those that it has.

    Also writes BUNDLE.provenance.json (in-toto, SLSA v1), signed with the same keys, and with an
    ECDSA P-256 key BUNDLE.model.sig (OpenSSF Model Signing).

    \b
    Examples:
      edgepack sign BUNDLE.epk
      edgepack sign BUNDLE.epk --key release --key ./auditor.key
    """
    from packager import bundle as bundles
    from packager import keys as store
    from packager.attest import files

    signers = store.unlock(chosen, passphrase_file)
    bundles.sign(bundle, signers)
    files.write(bundle, signers)
    ids = [signer.public.id for signer in signers]
    if as_json:
        console.result_json({"bundle": str(bundle), "signed_with": ids})
    else:
        console.result(f"{bundle} is signed with {', '.join(ids)}")

"""Commands about the releases on a device: install, releases, rollback, gc, purge."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from device_runtime.bundle.release import OnBytes
from device_runtime.commands.options import as_json

if TYPE_CHECKING:
    from device_runtime.bundle.source import Source
    from device_runtime.update.preflight import Policy

root = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default="/",
    show_default=True,
    help="Root file system of the device: this one's, or a mounted one.",
)


@click.command()
@click.argument("bundle")
@root
@click.option(
    "--force",
    is_flag=True,
    help="Install a bundle that is for other hardware, is another product, or has failed here.",
)
@click.option(
    "--allow-downgrade",
    is_flag=True,
    help="Install a bundle older than the current release.",
)
@click.option(
    "--key",
    "key_files",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    multiple=True,
    help="Trust this public key from now on; only if the device trusts none yet.",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificates to trust besides the system's, PEM, if BUNDLE is in a registry.",
)
@click.option(
    "--plain-http", is_flag=True, help="Use HTTP without encryption, if BUNDLE is in a registry."
)
@as_json
def install(
    bundle: str,
    root: Path,
    force: bool,
    allow_downgrade: bool,
    key_files: tuple[Path, ...],
    ca_file: Path | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Verify a BUNDLE and make it the device's current release, in one atomic step.

    It must be signed with a key that the device trusts: those in /etc/edgepack/keys.d. The release
    is on trial then: if it fails, the device returns to the one before.

    BUNDLE is a file, or the place of a bundle in an OCI registry. The digest in it says exactly
    which bundle; a tag may point to another one tomorrow. Files that the device has are not
    downloaded.

    \b
    Examples:
      sudo edgepack-runtime install first.epk --key builder.pem
      sudo edgepack-runtime install new.epk
      sudo edgepack-runtime install new.epk --root /mnt/card
      sudo edgepack-runtime install oci://registry.example/team/bundle@sha256:3f2a...
    """
    from device_runtime.update.install import Policy
    from device_runtime.update.install import install as put
    from device_runtime.update.keyring import Keyring
    from device_runtime.update.target import Target

    keys = tuple(file.read_bytes() for file in key_files)
    Keyring(Target(root)).require(keys)
    policy = Policy(force=force, downgrade=allow_downgrade, keys=keys)
    with _opened(bundle, root, policy, ca_file, plain_http) as source:
        release = put(source, root, policy=policy)
    manifest = release.manifest
    if as_json:
        result = {
            "id": manifest.id,
            "version": manifest.version,
            "digest": release.digest,
            "on_trial": release.on_trial,
            "notes": release.notes,
        }
        click.echo(json.dumps(result))
        return
    click.echo(f"{manifest.id} {manifest.version} is installed: {release.digest}")
    for note in release.notes:
        click.echo(f"note: {note}", err=True)


@contextmanager
def _opened(
    bundle: str, root: Path, policy: "Policy", ca_file: Path | None, plain_http: bool
) -> "Iterator[Path | Source]":
    """Yield the source of an installation, downloaded if it is in a registry."""
    if not bundle.startswith("oci://"):
        yield Path(bundle)
        return
    from device_runtime.update.registry.device import downloaded

    with downloaded(
        bundle,
        root,
        policy,
        ca_file=ca_file,
        plain_http=plain_http,
        note=lambda line: click.echo(line, err=True),
        progress=_progress,
    ) as source:
        yield source


@contextmanager
def _progress(total: int) -> Iterator[OnBytes]:
    """Show a progress bar on a terminal."""
    with click.progressbar(length=total, label="Downloading", file=sys.stderr) as bar:
        yield bar.update


@click.command()
@root
@as_json
def releases(root: Path, as_json: bool) -> None:
    """List the releases on the device: the one that serves, the one before, those that failed.

    \b
    Examples:
      edgepack-runtime releases
      edgepack-runtime releases --json
    """
    from device_runtime.update import upkeep

    listed = upkeep.listing(root)
    if as_json:
        click.echo(msgspec.json.encode(listed).decode())
        return
    if not listed:
        click.echo("no release is installed", err=True)
    for item in listed:
        speed = f", {item.tokens_per_s:.1f} tokens/s" if item.tokens_per_s is not None else ""
        reason = f": {item.reason}" if item.reason else ""
        click.echo(
            f"{item.state:<9} {item.digest[:12]} {item.id} {item.version} "
            f"({item.size / 1e6:.1f} MB{speed}){reason}"
        )


@click.command()
@root
@as_json
def rollback(root: Path, as_json: bool) -> None:
    """Make the previous release the current one; a second time, the other way around.

    \b
    Example:
      sudo edgepack-runtime rollback
    """
    from device_runtime.update import upkeep

    release = upkeep.go_back(root)
    manifest = release.manifest
    if as_json:
        result = {"id": manifest.id, "version": manifest.version, "digest": release.digest}
        click.echo(json.dumps(result))
    else:
        click.echo(f"{manifest.id} {manifest.version} is current again: {release.digest}")


@click.command()
@root
@as_json
def gc(root: Path, as_json: bool) -> None:
    """Remove old releases, partial transfers and what interrupted installations left behind.

    The current and the previous release stay.

    \b
    Example:
      sudo edgepack-runtime gc
    """
    from device_runtime.update import upkeep

    removed = upkeep.collect(root)
    if as_json:
        click.echo(json.dumps({"removed": removed}))
    else:
        click.echo(f"releases removed: {', '.join(removed) or 'none'}")


@click.command()
@click.argument("digest", required=False)
@click.option("--all", "everything", is_flag=True, help="Remove all releases and the service.")
@root
@as_json
def purge(digest: str | None, everything: bool, root: Path, as_json: bool) -> None:
    """Remove the release DIGEST, or with --all everything but the configuration.

    \b
    Examples:
      sudo edgepack-runtime purge 3f2a9c41
      sudo edgepack-runtime purge --all
    """
    from device_runtime.update import upkeep

    if (digest is None) != everything:
        raise click.UsageError("pass either a DIGEST or --all")
    if digest is None:
        notes = upkeep.uninstall(root)
        result: dict[str, object] = {"removed": "all", "notes": notes}
        lines = ["edgepack is uninstalled; its configuration in /etc/edgepack stays", *notes]
    else:
        removed = upkeep.purge(root, digest)
        result = {"removed": [removed]}
        lines = [f"{removed} is removed"]
    click.echo(json.dumps(result) if as_json else "\n".join(lines))

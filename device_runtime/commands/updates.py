"""Commands about the releases on a device: install, releases, rollback, gc, purge; the guard and
the updater."""

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
from device_runtime.errors import InstallError, ServiceError

if TYPE_CHECKING:
    from device_runtime.bundle.release import Release
    from device_runtime.bundle.source import Source
    from device_runtime.update.preflight import Policy
    from device_runtime.update.services import Services

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
@click.option("--settings", type=click.Path(path_type=Path), hidden=True)
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
    settings: Path | None,
    ca_file: Path | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Verify a BUNDLE and make it the device's current release, in one atomic step.

    It must be signed with a key that the device trusts: those in /etc/edgepack/keys.d. The release
    is on trial then: if it fails, the device returns to the one before. On the device itself this
    command waits for the verdict; Ctrl-C ends the waiting, not the trial. An update that was made
    with `edgepack diff` needs the release that it was made from.

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
    from device_runtime.update import first_boot, systemd
    from device_runtime.update.install import Policy
    from device_runtime.update.install import install as put
    from device_runtime.update.keyring import Keyring
    from device_runtime.update.target import Target

    keys = tuple(file.read_bytes() for file in key_files)
    Keyring(Target(root)).require(keys)
    sent = first_boot.load(settings) if settings is not None else first_boot.FirstBoot()
    keys += tuple(pem.encode() for pem in sent.keys)
    services = systemd.of_root(root)
    policy = Policy(force=force, downgrade=allow_downgrade, keys=keys)
    with _opened(bundle, root, policy, ca_file, plain_http) as source:
        release = put(source, root, policy=policy, services=services, settings=sent)
    manifest = release.manifest
    for note in release.notes:
        click.echo(f"note: {note}", err=True)
    on_trial = release.on_trial
    if services is not None and on_trial:
        _wait(root, services, release)
        on_trial = False
    if as_json:
        result = {
            "id": manifest.id,
            "version": manifest.version,
            "digest": release.digest,
            "on_trial": on_trial,
            "notes": release.notes,
        }
        click.echo(json.dumps(result))
    else:
        click.echo(f"{manifest.id} {manifest.version} is installed: {release.digest}")


def _wait(root: Path, services: "Services", release: "Release") -> None:
    """Wait until the trial of a release ends well.

    Raises:
        InstallError: it did not.
        ServiceError: nobody judges the release.
    """
    from device_runtime.update import waiting
    from device_runtime.update.target import Target

    def report(health: str) -> None:
        click.echo(f"on trial: the service is {health}", err=True)

    try:
        update = waiting.wait(Target(root), services, release.digest, report)
    except KeyboardInterrupt:
        click.echo("the trial goes on; edgepack-runtime status shows how it ends", err=True)
        raise
    version = release.manifest.version
    if update.release != release.digest:
        raise InstallError(
            f"the trial of {version} was ended by another command",
            hint="edgepack-runtime releases shows which release is current.",
        )
    if update.state != "committed":
        stays = "" if update.state == "rolled back" else ", and there is no release to go back to"
        raise InstallError(
            f"{version} {update.state}{stays}: {update.reason}",
            hint="The log has more: journalctl -u edgepack",
        )


@click.command(hidden=True)
@root
def guard(root: Path) -> None:
    """Judge the release on trial; edgepack-guard.service runs this.

    Raises:
        ResourceError: the state of the update cannot be read or written.
        ServiceError: this is not the root of a running systemd.
    """
    from device_runtime.bundle.release import disk_error
    from device_runtime.update import guard as judge
    from device_runtime.update import systemd
    from device_runtime.update.target import Target

    services = systemd.of_root(root)
    if services is None:
        raise ServiceError(
            f"{root} is not the root of a running systemd",
            hint="The device itself judges the release at its next start.",
        )
    try:
        judge.run(Target(root), services)
    except OSError as error:
        raise disk_error(error, root) from None


@click.command(hidden=True)
@root
def updater(root: Path) -> None:
    """Carry out what the service has asked for; edgepack-updater.service runs this.

    Raises:
        ResourceError: the state of the request cannot be read or written.
    """
    from device_runtime.bundle.release import disk_error
    from device_runtime.update import requests, systemd, upkeep
    from device_runtime.update.install import STRICT
    from device_runtime.update.install import install as put
    from device_runtime.update.requests import Request
    from device_runtime.update.target import Target

    services = systemd.of_root(root)

    def update(request: Request) -> "Release":
        with _opened(request.reference, root, STRICT, None, False) as source:
            release = put(source, root, services=services)
        if services is not None and release.on_trial:
            _wait(root, services, release)
        return release

    def rollback(_: Request) -> "Release":
        return upkeep.go_back(root, services)

    try:
        requests.carry_out(Target(root), {"update": update, "rollback": rollback})
    except OSError as error:
        raise disk_error(error, root) from None


@contextmanager
def _opened(
    bundle: str, root: Path, policy: "Policy", ca_file: Path | None, plain_http: bool
) -> "Iterator[Path | Source]":
    """Yield the source of an installation, downloaded if it is in a registry."""
    if not bundle.startswith("oci://"):
        yield Path(bundle)
        return
    from device_runtime.update import config
    from device_runtime.update.registry.device import downloaded
    from device_runtime.update.target import Target

    rules = config.read(Target(root))
    if ca_file is None and rules.registry_ca_file:
        ca_file = Path(rules.registry_ca_file)
    with downloaded(
        bundle,
        root,
        policy,
        ca_file=ca_file,
        plain_http=plain_http or rules.registry_plain_http,
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
    from device_runtime.update import systemd, upkeep

    release = upkeep.go_back(root, systemd.of_root(root))
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
    from device_runtime.update import systemd, upkeep

    if (digest is None) != everything:
        raise click.UsageError("pass either a DIGEST or --all")
    if digest is None:
        notes = upkeep.uninstall(root, systemd.of_root(root))
        result: dict[str, object] = {"removed": "all", "notes": notes}
        lines = ["edgepack is uninstalled; its configuration in /etc/edgepack stays", *notes]
    else:
        removed = upkeep.purge(root, digest)
        result = {"removed": [removed]}
        lines = [f"{removed} is removed"]
    click.echo(json.dumps(result) if as_json else "\n".join(lines))

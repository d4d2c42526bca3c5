"""Commands about a release: verify, doctor."""

import json
from pathlib import Path

import click
from msgspec.structs import asdict

from device_runtime.commands.options import as_json, config_file, open_or_own, release, resolve
from device_runtime.errors import ResourceError


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@as_json
def verify(path: Path | None, as_json: bool) -> None:
    """Check every byte of a bundle or a release against its manifest.

    PATH is a .epk file or the folder of a release; the default is the release of this program.
    """
    from device_runtime.bundle.reader import open_bundle
    from device_runtime.update.keyring import Keyring, describe
    from device_runtime.update.target import Target

    keyring = Keyring(Target(Path("/")))
    if path is None or path.is_dir():
        opened = open_or_own(path)
        opened.verify()
        manifest, digest, signatures = opened.manifest, opened.digest, keyring.signatures(opened)
    else:
        with open_bundle(path) as bundle:
            bundle.verify()
        manifest, digest, signatures = bundle.manifest, bundle.digest, keyring.signatures(bundle)
    if as_json:
        result = {"ok": True, "id": manifest.id, "version": manifest.version, "digest": digest}
        click.echo(json.dumps({**result, "signatures": signatures}))
    else:
        click.echo(
            f"{manifest.id} {manifest.version} is intact: {len(manifest.records)} files, "
            f"digest {digest}, {describe(signatures)}"
        )


@click.command()
@release
@config_file
@as_json
def doctor(release: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Check that this device can serve the release, and report what to do if it cannot.

    The address to listen on and the broker are those of the configuration.
    """
    from device_runtime.doctor import examine

    opened = open_or_own(release)
    checks = examine(opened, resolve(opened, config_file).config)
    passed = all(check.status != "fail" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": passed, "checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{check.status:<5} {check.name:<15} {check.found}")
            if check.advice:
                click.echo(f"{'':<21} -> {check.advice}")
    return 0 if passed else ResourceError.exit_code

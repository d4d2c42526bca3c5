"""`edgepack flash`: put a bundle on a device."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from packager import console
from packager.commands.options import as_json, bundle_argument


class _Size(click.ParamType[int]):
    """A size in bytes, `8G`."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        from packager import units

        try:
            return units.size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@bundle_argument
@click.argument("target")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Settings for the device (TOML): the options of its service, and secrets.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; print what would be written.")
@click.option("--force", is_flag=True, help="Install a bundle that is for other hardware.")
@click.option(
    "--allow-downgrade", is_flag=True, help="Install a bundle that is older than the current one."
)
@click.option(
    "--allow-unsigned",
    is_flag=True,
    help="Install a bundle that no key that the device trusts has signed.",
)
@click.option(
    "--sudo-password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="SSH: file with the password for sudo.  [default: asked for if sudo needs one]",
)
@click.option(
    "--delta-from",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="OLD",
    help="SSH: the bundle that the device has; send only the difference, if that is less.",
)
@click.option("--grow", type=_Size(), help="Images: enlarge the root file system by this (2G).")
@click.option(
    "--max-size",
    type=_Size(),
    default="256G",
    show_default=True,
    help="Block devices: refuse a larger one.",
)
@click.option("--yes", is_flag=True, help="Block devices: overwrite without asking.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Images: write this image, and leave TARGET as it is.",
)
@as_json
def flash(
    bundle: Path,
    target: str,
    config_file: Path | None,
    dry_run: bool,
    force: bool,
    allow_downgrade: bool,
    allow_unsigned: bool,
    sudo_password_file: Path | None,
    delta_from: Path | None,
    grow: int | None,
    max_size: int,
    yes: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Install a bundle on TARGET: a mounted root file system, a disk image or card, or a device
    that is reached over SSH.

    A device without keys trusts from then on those of this host that signed the bundle.

    A card does not identify its board: make sure that the bundle's profile matches it.

    \b
    Examples:
      edgepack flash BUNDLE.epk /mnt/sdcard                     a mounted root partition
      edgepack flash BUNDLE.epk raspios.img.xz -o mine.img      a disk image
      edgepack flash BUNDLE.epk /dev/sdX                        a card in a reader
      edgepack flash BUNDLE.epk ssh://pi@kitchen.local          a running device
      edgepack flash BUNDLE.epk ssh://pi@kitchen --config kitchen.toml
      edgepack flash NEW.epk ssh://pi@kitchen --delta-from OLD.epk

    \b
    The file of --config has the options of the device's service (edgepack-runtime serve --help)
    and secrets; mqtt_password_file and api_key_file are files on this machine:
      listen = "0.0.0.0:8080"
      device_id = "kitchen"
      mqtt = "mqtts://kitchen@broker.local"
      mqtt_password_file = "mqtt-password"
      api_key_file = "kitchen.key"
    """
    from device_runtime.update.preflight import Policy
    from packager.flash import first_boot
    from packager.flash import flash as put
    from packager.flash.request import FlashRequest
    from packager.units import megabytes

    result = put(
        FlashRequest(
            bundle=bundle,
            target=target,
            policy=Policy(force=force, downgrade=allow_downgrade, unsigned=allow_unsigned),
            settings=first_boot.read(config_file) if config_file is not None else None,
            grow=grow,
            max_size=max_size,
            yes=yes,
            dry_run=dry_run,
            output=output,
            sudo_password=sudo_password_file,
            delta_from=delta_from,
        )
    )
    if as_json:
        console.result_json({**asdict(result), "total": result.total})
        return
    for component, size in result.moved.items():
        console.result(f"{component:<10} {megabytes(size):>10}")
    verb = "would get" if dry_run else "has"
    console.result(
        f"{result.target} {verb} release {result.release[:12]} ({result.id} {result.version}), "
        f"{megabytes(result.total)} written"
    )

"""The check of this machine: `doctor`."""

import click

from packager import console
from packager.commands.options import as_json
from packager.errors import ResourceError


@click.command()
@as_json
def doctor(as_json: bool) -> int:
    """Check what this machine can build; says what to do where it cannot."""
    from msgspec.structs import asdict

    from packager.doctor import examine

    checks = examine()
    well = all(check.status != "fail" for check in checks)
    if as_json:
        console.result_json({"ok": well, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            console.result(f"{check.status:<5} {check.name:<22} {check.found}")
            if check.advice:
                console.result(f"{'':<28} -> {check.advice}")
    return 0 if well else ResourceError.exit_code

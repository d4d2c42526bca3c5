"""Many devices through their broker: `fleet`."""

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from packager import console
from packager.commands.options import as_json

FILE = click.Path(path_type=Path, dir_okay=False)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--mqtt", required=True, metavar="URL", help="The devices' broker."),
            click.option("--mqtt-password-file", type=FILE, help="File with the user's password."),
            click.option("--mqtt-ca-file", type=FILE, help="Certificates to check the broker's."),
            click.option("--mqtt-certificate", type=FILE, help="Certificate to show the broker."),
            click.option("--mqtt-key", type=FILE, help="Private key of that certificate."),
            click.option("--mqtt-proxy", metavar="URL", help="Reach it through this proxy."),
            click.option(
                "--mqtt-proxy-password-file", type=FILE, help="File with the proxy's password."
            ),
            click.option(
                "--select", multiple=True, metavar="FIELD=VALUE", help="Only these; repeatable."
            ),
            as_json,
        )
    ):
        command = option(command)
    return command


def _share(_context: click.Context, option: click.Parameter, value: str) -> Fraction:
    """Read a percentage, `5%` or `2.5%`, exactly."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?) ?%", value, re.ASCII)
    if match is None or (share := Fraction(match[1]) / 100) > 1:
        raise click.BadParameter(f"{value!r} is not a share; write it as 5%", param=option)
    return share


@click.group()
def fleet() -> None:
    """Watch and command many devices through their MQTT broker."""


@fleet.command()
@_options
@click.option("--seconds", type=click.FloatRange(0.1), help="End after this time.")
def watch(
    mqtt: str, select: tuple[str, ...], as_json: bool, seconds: float | None, **more: Any
) -> None:
    """Show the devices of a broker until Ctrl-C, those that need attention first.

    With --json, a line for each change of a device. Without a terminal, the table is printed once,
    at the end: give --seconds.

    \b
    Examples:
      edgepack fleet watch --mqtt mqtt://broker.local
      edgepack fleet watch --mqtt mqtts://me@broker.local --mqtt-password-file password
      edgepack fleet watch --mqtt mqtt://broker.local --select profile=raspberry-pi --json
    """
    from packager.fleet.connection import connected
    from packager.fleet.devices import TOPICS, Fleet, selection
    from packager.fleet.watch import show

    devices = Fleet(selection(select))
    with connected(_broker(mqtt, **more), TOPICS) as connection:
        try:
            show(connection, devices, seconds=seconds, lines=as_json)
        except KeyboardInterrupt:  # the usual end
            return


@fleet.command()
@click.argument("verb")
@_options
@click.option(
    *("--argument", "-a", "pairs"),
    multiple=True,
    metavar="NAME=VALUE",
    help="Argument of the verb; JSON, or a text.",
)
@click.option("--timeout", default=60.0, show_default=True, help="Time for all devices, seconds.")
def run(
    verb: str,
    mqtt: str,
    select: tuple[str, ...],
    as_json: bool,
    pairs: tuple[str, ...],
    timeout: float,
    **more: Any,
) -> int:
    """Have the devices that are online carry out a command, and show what each says.

    What a device allows is its option mqtt_commands. Fails unless all were successful.

    \b
    Examples:
      edgepack fleet run ping --mqtt mqtt://broker.local
      edgepack fleet run bench --mqtt mqtt://broker.local --select profile=raspberry-pi
      edgepack fleet run log_level -a level=debug --mqtt mqtt://broker.local --select device=kitchen
    """
    from dataclasses import asdict

    from packager.errors import FleetError
    from packager.fleet.commands import OUTCOMES
    from packager.fleet.commands import run as carry_out
    from packager.fleet.connection import connected
    from packager.fleet.devices import TOPICS, Fleet, selection
    from packager.fleet.watch import gather

    arguments = _arguments(pairs)
    devices = Fleet(selection(select))
    with connected(_broker(mqtt, **more), (*TOPICS, OUTCOMES)) as connection:
        gather(connection, devices.take)
        chosen = devices.selected()
        if not chosen:
            raise FleetError("no such device", hint="See edgepack fleet watch.")
        with console.progress(f"{verb} on", len(chosen), "devices") as advance:
            outcomes = carry_out(
                connection, chosen, verb, arguments, timeout_s=timeout, advance=advance
            )
    if as_json:
        console.result_json([asdict(outcome) for outcome in outcomes])
    else:
        rows = [
            [outcome.device, outcome.status, outcome.reason or _text(outcome.result)]
            for outcome in outcomes
        ]
        console.table("", ["device", verb, ""], rows)
    well = all(outcome.status == "successful" for outcome in outcomes)
    return 0 if well else FleetError.exit_code


@fleet.command()
@click.option(
    *("--to", "reference"),
    required=True,
    metavar="oci://...@sha256:...",
    help="The bundle in its registry, as edgepack push prints it.",
)
@_options
@click.option(
    "--canary",
    callback=_share,
    default="5%",
    show_default=True,
    help="Share of the devices that are first; at least one is.",
)
@click.option(
    "--abort-over",
    callback=_share,
    default="2%",
    show_default=True,
    help="Stop when more than this share of the devices updated so far are bad.",
)
@click.option("--at-once", type=click.IntRange(1), help="Devices in a stage, at most.")
@click.option(
    "--soak",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Time for which a stage is watched before the next one, seconds.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=1800.0,
    show_default=True,
    help="Time for each device's update, seconds.",
)
@click.option("--again", is_flag=True, help="Start over a rollout that has ended.")
def update(
    mqtt: str,
    select: tuple[str, ...],
    as_json: bool,
    reference: str,
    canary: Fraction,
    abort_over: Fraction,
    at_once: int | None,
    soak: float,
    timeout: float,
    again: bool,
    **more: Any,
) -> int:
    """Update the devices that are online, stage by stage, while their health is watched.

    The canary is first; each further stage has twice as many devices. A device is bad if its
    update failed, or if it is offline or its health is failed afterwards. With too many bad
    devices, nothing more is sent, and those that were updated are rolled back. The same command
    again goes on with a rollout that was interrupted.

    \b
    Examples:
      edgepack fleet update --to oci://registry.local/kitchen@sha256:... --mqtt mqtt://broker.local
      edgepack fleet update --to ... --mqtt ... --select profile=raspberry-pi --canary 1% --soak 600
    """
    from packager.fleet.devices import selection
    from packager.fleet.rollout import Limits
    from packager.fleet.update import report
    from packager.fleet.update import update as carry_out

    result = carry_out(
        _broker(mqtt, **more),
        reference,
        selection(select),
        limits=Limits(canary=canary, abort_over=abort_over, at_once=at_once),
        soak_s=soak,
        timeout_s=timeout,
        again=again,
    )
    return report(result, as_json=as_json)


def _text(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in result.items())


def _arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    import json

    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--argument")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def _broker(url: str, mqtt_proxy: str | None, **files: Path | None) -> Any:
    from device_runtime.mqtt.address import broker

    named = {name.removeprefix("mqtt_"): path for name, path in files.items()}
    return broker(url, proxy_url=mqtt_proxy, **named)

"""Access to a registry from the host: credentials from Docker's configuration or from options."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

import msgspec

from device_runtime.errors import RegistryError
from device_runtime.update.registry.client import Registry
from device_runtime.update.registry.credentials import Credentials, read_config
from device_runtime.update.registry.reference import Reference
from device_runtime.update.registry.transport import Transport
from packager import console
from packager.errors import CommandError
from packager.run import Program

_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Answer(msgspec.Struct, rename="pascal"):
    """The answer of a credential helper."""

    username: str
    secret: str


@dataclass(frozen=True, kw_only=True)
class Access:
    """Options for the access to a registry.

    Attributes:
        username: user name; None for the credentials of Docker's configuration.
        password_file: file with the password on its first line; required with a user name.
        ca_file: certificates to trust besides the system's, PEM; None for none.
        plain_http: whether to use plain HTTP with the registry.
    """

    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    plain_http: bool = False


def connect(reference: Reference, access: Access) -> Registry:
    """Create the client of a repository; nothing is sent yet.

    Raises:
        RegistryError: the credentials or the certificates cannot be read.
    """
    plain = frozenset([reference.host]) if access.plain_http else frozenset()
    return Registry(
        reference,
        Transport(ca_file=access.ca_file, plain=plain),
        credentials=_credentials(reference.registry, access),
        note=console.note,
    )


def _credentials(registry: str, access: Access) -> Credentials | None:
    if access.username is not None and access.password_file is not None:
        try:
            password = access.password_file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(
                f"{access.password_file} cannot be read: {error}",
                hint="Pass a file with the password on its first line.",
            ) from None
        return Credentials(access.username, password)
    folder = os.environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
    try:
        config = read_config(path.read_bytes(), str(path))
    except OSError:
        return None
    helper = config.helpers.get(registry) or config.stores
    if helper and (stored := _from_helper(helper, registry)) is not None:
        return stored
    return config.credentials(registry)


def _from_helper(name: str, registry: str) -> Credentials | None:
    """Get credentials from a helper program of Docker (its protocol: `get`, the registry on stdin).

    None if it has none.
    """
    if not _PROGRAM.fullmatch(name):
        raise RegistryError(
            f"{name!r} is not the name of a credential helper",
            hint="Correct credsStore and credHelpers in Docker's config.json.",
        )
    argv = [f"docker-credential-{name}", "get"]
    hint = "Log in to the registry again, with docker login for instance, or pass --username."
    try:
        with Program(
            argv, what="Reading credentials", stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        ) as process:
            output, _ = process.communicate(registry.encode())
    except CommandError as error:
        raise RegistryError(str(error), hint=hint) from None
    if process.returncode != 0 and b"credentials not found" in output:
        return None
    try:
        answer = msgspec.json.decode(output, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RegistryError(f"{argv[0]} gave no credentials for {registry}", hint=hint) from None
    return Credentials(answer.username, answer.secret)

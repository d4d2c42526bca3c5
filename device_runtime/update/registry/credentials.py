"""Credentials for a registry, from a file in the form of Docker's `config.json`."""

import os
import stat
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass, field

import msgspec

from device_runtime.errors import RegistryError
from device_runtime.update.registry.transport import basic
from device_runtime.update.target import Target

DEVICE_FILE = "etc/edgepack/registry.json"
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Credentials:
    """A user name and a password."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization field."""
        return basic(self.username, self.password)


class _Auth(msgspec.Struct):
    auth: str = ""


class DockerConfig(msgspec.Struct, rename={"stores": "credsStore", "helpers": "credHelpers"}):
    """Docker's `config.json`, as far as it is about credentials.

    Attributes:
        auths: `user:password` in Base64 by registry.
        stores: name of the program that has all other credentials; empty for none.
        helpers: names of programs that have the credentials of a registry.
    """

    auths: dict[str, _Auth] = {}
    stores: str = ""
    helpers: dict[str, str] = {}

    def credentials(self, registry: str) -> Credentials | None:
        """Return the credentials in the file itself for a registry; None if it has none.

        Raises:
            RegistryError: they are not valid.
        """
        entry = self.auths.get(registry) or self.auths.get(f"https://{registry}")
        if entry is None or not entry.auth:
            return None
        try:
            username, colon, password = b64decode(entry.auth, validate=True).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            raise RegistryError(
                f"the stored credentials for {registry} are not valid",
                hint="Log in to the registry again, with docker login for instance.",
            )
        return Credentials(username, password)


def read_config(data: bytes, name: str) -> DockerConfig:
    """Read the file's content.

    Args:
        data: the content.
        name: name of the file, for the message.

    Raises:
        RegistryError: it is not of this form.
    """
    try:
        return msgspec.json.decode(data, type=DockerConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RegistryError(
            f"{name} cannot be read: {error}",
            hint='It has the form {"auths": {"HOST:PORT": {"auth": "<Base64 of USER:PASSWORD>"}}}.',
        ) from None


def of_device(target: Target, registry: str) -> Credentials | None:
    """Return the device's credentials for a registry, from `/etc/edgepack/registry.json`.

    Raises:
        RegistryError: the file is not valid, or others than root may read it.
    """
    try:
        with target.file(DEVICE_FILE) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RegistryError(
            f"/{DEVICE_FILE} cannot be read: {error.strerror}", hint="Run the command as root."
        ) from None
    if mode & 0o077:
        raise RegistryError(
            f"/{DEVICE_FILE} has the mode {mode:o}: others may read the password in it",
            hint=f"Run: chmod 600 /{DEVICE_FILE}",
        )
    return read_config(data, f"/{DEVICE_FILE}").credentials(registry)

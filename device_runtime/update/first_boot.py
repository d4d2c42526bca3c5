"""Settings that are written to a device together with a release: its configuration and secrets.

The service has a user of its own (DynamicUser=) that may not read root's files. systemd reads the
password for it: LoadCredential= in a drop-in of the unit, which needs systemd 247. The file of API
keys has only digests of random keys, so every user may read it, and the service notices changes.
"""

import errno
import os
from pathlib import Path
from typing import Annotated

import msgspec

from device_runtime.bundle.quantization import Struct
from device_runtime.durable import Folder, open_folder
from device_runtime.errors import InstallError
from device_runtime.update.target import Target

CONFIG = "etc/edgepack/runtime.toml"
API_KEYS = "etc/edgepack/api-keys"
PASSWORD = "etc/edgepack/secrets/mqtt-password"  # noqa: S105  (a path)
DROP_IN = "etc/systemd/system/edgepack.service.d/10-edgepack-credentials.conf"
CREDENTIAL = "/run/credentials/edgepack.service/mqtt-password"
"""Path of the password for the service: the option `mqtt_password_file`."""

MAX_BYTES = 1 << 20
"""Limit on each file, which the service has as well."""
_API_KEY = r"^(?:\S+ sha256:\S+ \S+)?\Z"


class FirstBoot(Struct, frozen=True, kw_only=True):
    """Settings for a device; over SSH they travel as JSON.

    Attributes:
        config: text of `/etc/edgepack/runtime.toml`; empty to leave it as it is.
        mqtt_password: password for the MQTT broker; empty for none.
        api_key: line of the file of API keys with the digest of a key; empty for none.
        keys: public keys (PEM) for `Policy.keys`, where the policy is made on the device.
    """

    config: str = ""
    mqtt_password: str = ""
    api_key: Annotated[str, msgspec.Meta(pattern=_API_KEY)] = ""
    keys: tuple[str, ...] = ()


def write(target: Target, settings: FirstBoot) -> bool:
    """Write settings to a device; files that they replace are kept under the name `FILE.old`.

    API keys that the device has stay valid, but for an older one of the same name.

    Returns:
        Whether anything has changed.

    Raises:
        InstallError: a path of the target is not what it must be.
        OSError: the target cannot be written to.
    """
    changed = []
    if settings.config:
        changed.append(_put(target, CONFIG, settings.config, 0o644))
    if settings.mqtt_password:
        changed.append(_put(target, PASSWORD, settings.mqtt_password + "\n", 0o600))
        load = f"[Service]\nLoadCredential=mqtt-password:/{PASSWORD}\n"
        changed.append(_put(target, DROP_IN, load, 0o644))
    if settings.api_key:
        changed.append(_add_key(target, settings.api_key))
    return any(changed)


def _add_key(target: Target, key: str) -> bool:
    text = target.settings(API_KEYS, MAX_BYTES)
    name, digest, _ = key.split()
    lines = text.splitlines()
    if any(line.split()[:2] == [name, digest] for line in lines):
        return False
    kept = [line for line in lines if line.split()[:1] != [name]]
    return _put(target, API_KEYS, "".join(f"{line}\n" for line in [*kept, key]), 0o644)


def _put(target: Target, path: str, text: str, mode: int) -> bool:
    """Write a file below the target's root; another one of its name becomes `NAME.old`.

    Returns:
        Whether it has changed.
    """
    around, _, name = path.rpartition("/")
    with target.folder(around, make=True) as folder:
        if mode == 0o600:
            os.fchmod(folder.descriptor, 0o700)
        try:
            with folder.file(name) as file:
                old = file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_mode & 0o777
                if len(old[0]) > MAX_BYTES:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        except FileNotFoundError:
            pass
        except OSError:  # not a plain file, or a giant one
            folder.rename(name, f"{name}.old")
        else:
            if old == (text.encode(), mode):
                return False
            # Copied, not renamed: the device has a configuration at every moment.
            _replace(folder, f"{name}.old", *old)
        _replace(folder, name, text.encode(), mode)
    return True


def _replace(folder: Folder, name: str, content: bytes, mode: int) -> None:
    with folder.written_aside(name, mode) as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def load(file: Path) -> FirstBoot:
    """Read settings that have travelled as JSON; a link to a file is not followed.

    Raises:
        InstallError: there are none, or they are not valid.
    """
    try:
        with open_folder(file.parent) as folder, folder.file(file.name) as opened:
            return msgspec.json.decode(opened.read(3 * MAX_BYTES), type=FirstBoot)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The message of the error may have a secret in it.
        raise InstallError(
            f"{file} does not have settings of edgepack flash", hint="Flash the device again."
        ) from None

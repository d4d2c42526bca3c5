"""The parts of an installation in the system around it: the program's name and systemd's units.

A unit file belongs to edgepack as long as it is byte for byte what an installation wrote, which its
first line proves. An edited unit, a masked one and one that somebody put there as a link are left
alone, and a unit that was disabled stays so. Drop-ins are never touched.
"""

import hashlib
import os
import re
import stat
from contextlib import suppress
from typing import Literal

from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.durable import Folder
from device_runtime.update.links import STATE
from device_runtime.update.target import Target

PROGRAMS = "usr/local/bin"
PROGRAM_NAME = "edgepack-runtime"
UNITS = "etc/systemd/system"
WANTS = f"{UNITS}/multi-user.target.wants"
SERVICE = "edgepack.service"
GUARD = "edgepack-guard.service"
UPDATER = "edgepack-updater.service"
REQUESTS = "edgepack-updater.path"

_PROGRAM_LINK = f"/{STATE}/current/{RUNTIME_ENTRY}"
# The kernel's end of the inference process is not that of the service, which replaces it. Where the
# memory controller is off, as on Raspberry Pi OS, the service itself takes memory back in time.
# A service that fails is started ever more slowly, which systemd 254 can (earlier ones ignore these
# lines): with a limit of starts, a device would stay dead when what it missed is back.
# Devices stay reachable, those of a GPU too: PrivateDevices=, and ProtectClock= with it, hide them,
# and PrivateUsers= takes the group that may open them.
_TEXTS = {
    SERVICE: f"""\
[Unit]
Description=edgepack: a language model served on this device
After=network.target
Wants={REQUESTS}
StartLimitIntervalSec=0

[Service]
Type=notify
WatchdogSec=60
ExecStart=/{STATE}/current/{RUNTIME_ENTRY} serve
EnvironmentFile=-/etc/edgepack/runtime.env
Restart=on-failure
RestartSec=2
RestartSteps=8
RestartMaxDelaySec=300
TimeoutStopSec=30
KillMode=mixed
MemoryMax=90%
OOMPolicy=continue
DynamicUser=yes
RuntimeDirectory=edgepack
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=restart
StateDirectory=edgepack-runtime
StateDirectoryMode=0700
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectHostname=yes
ProtectProc=invisible
PrivateMounts=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
""",
    GUARD: f"""\
[Unit]
Description=edgepack: judges a new release, and returns to the one before if it fails
ConditionPathExists=/{STATE}/pending.json

[Service]
Type=exec
ExecStart=/{STATE}/guard/{RUNTIME_ENTRY} guard
Restart=on-failure
RestartSec=5
NoNewPrivileges=yes
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
""",
    REQUESTS: """\
[Unit]
Description=edgepack: watches for requests of the service to update the device

[Path]
PathExists=/run/edgepack/request.json
""",
    UPDATER: f"""\
[Unit]
Description=edgepack: updates the device, or returns to the release before, as the service asked

[Service]
Type=oneshot
ExecStart=/{STATE}/current/{RUNTIME_ENTRY} updater
TimeoutStartSec=infinity
RuntimeDirectory=edgepack-updater
NoNewPrivileges=yes
ProtectHome=yes
PrivateTmp=yes
""",
}
_GPU_GROUPS = ("render", "video")
"""Groups that may open the devices of GPUs: /dev/dri/renderD*, and on a Jetson /dev/nv*."""
_CACHE = "edgepack-runtime"
_ENABLED = (SERVICE, GUARD)
"""Units that start with the system; the others are started when they are needed."""
# Digests of the units that earlier versions wrote, without a first line of their own.
_EARLIER = frozenset({"c7bf326cc300440eb9538318222877027e76cc08861d3169507d890476ea0f61"})
_FIRST_LINE = "# Written by edgepack, which replaces it unless it was edited: sha256 {}\n"
_MAX_BYTES = 64 << 10

State = Literal["missing", "ours", "edited", "masked"]


def place(target: Target, *, gpu: bool = False) -> bool:
    """Put program and units into the system; return whether a unit changed.

    Args:
        target: the system.
        gpu: the service computes on a GPU if there is one.
    """
    sweep(target)
    with target.folder(PROGRAMS, make=True) as programs:
        if _link(programs, PROGRAM_NAME) != _PROGRAM_LINK:
            programs.link(PROGRAM_NAME, _PROGRAM_LINK)
    texts = dict(_TEXTS)
    if gpu:
        texts[SERVICE] = texts[SERVICE].replace("\n[Install]", f"{_for_gpu(target)}\n[Install]")
    changed = [unit for unit, text in texts.items() if _place_unit(target, unit, text)]
    return changed != []


def _for_gpu(target: Target) -> str:
    """Return what the service needs for a GPU: its devices, and a place for compiled shaders.

    A group that does not exist would keep the service from starting.
    """
    known = re.findall(r"^(\w+):", target.settings("etc/group", _MAX_BYTES), re.MULTILINE)
    groups = [name for name in _GPU_GROUPS if name in known]
    lines = [f"SupplementaryGroups={' '.join(groups)}"] if groups else []
    lines += [f"CacheDirectory={_CACHE}", f"Environment=XDG_CACHE_HOME=/var/cache/{_CACHE}"]
    return "".join(f"{line}\n" for line in lines)


def remove(target: Target) -> None:
    """Take program and units out of the system; an edited unit stays, disabled."""
    sweep(target)
    for unit in _TEXTS:
        with target.folder(WANTS, make=True) as wants:
            if wants.stat(unit) is not None:
                wants.remove(unit)
        if state(target, unit) == "ours":
            with target.folder(UNITS) as units:
                units.remove(unit)
    with target.folder(PROGRAMS, make=True) as programs:
        if _link(programs, PROGRAM_NAME) == _PROGRAM_LINK:
            programs.remove(PROGRAM_NAME)


def sweep(target: Target) -> None:
    """Remove what interrupted changes left in the folders of the system."""
    ours = "|".join(re.escape(name) for name in (PROGRAM_NAME, *_TEXTS))
    folders = dict.fromkeys((PROGRAMS, UNITS, WANTS), ours)
    folders |= dict.fromkeys(("etc/edgepack", "etc/edgepack/keys.d"), ".{1,40}")
    for path, names in folders.items():
        with suppress(FileNotFoundError), target.folder(path) as folder:
            folder.sweep(names)


def starts(target: Target) -> bool:
    """Return whether the service starts with the system."""
    return state(target, SERVICE) in ("ours", "edited") and _is_enabled(target, SERVICE)


def notes(target: Target) -> list[str]:
    """Describe the units that installations leave as they are, one sentence each."""
    described = []
    for unit in _TEXTS:
        match state(target, unit):
            case "edited":
                described.append(f"{unit} was edited and stays as it is: remove it to get ours")
            case "masked":
                described.append(f"{unit} is masked and stays so")
            case "ours" if unit in _ENABLED and not _is_enabled(target, unit):
                described.append(f"{unit} is disabled and stays so")
    return described


def state(target: Target, unit: str) -> State:
    """Return the state of a unit file."""
    try:
        with target.folder(UNITS) as folder:
            if _link(folder, unit) is not None:
                return "masked" if _link(folder, unit) == os.devnull else "edited"
            with folder.file(unit) as file:
                content = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return "missing"
    if not content:
        return "masked"  # as a link to /dev/null: systemd.unit(5)
    first, _, text = content.decode("utf-8", "replace").partition("\n")
    ours = _FIRST_LINE.format(_digest(text.encode())) == f"{first}\n"
    return "ours" if ours or _digest(content) in _EARLIER else "edited"


def _place_unit(target: Target, unit: str, text: str) -> bool:
    """Write a unit that is missing or ours; return whether it changed."""
    content = (_FIRST_LINE.format(_digest(text.encode())) + text).encode()
    kind = state(target, unit)
    if kind == "missing" and unit in _ENABLED:
        # First, since a unit without this link was disabled by somebody.
        with target.folder(WANTS, make=True) as wants:
            wants.link(unit, f"/{UNITS}/{unit}")
    elif kind not in ("ours", "missing") or target.read(f"{UNITS}/{unit}", _MAX_BYTES) == content:
        return False
    with target.folder(UNITS, make=True) as units:
        units.write(unit, content)
    return True


def _is_enabled(target: Target, unit: str) -> bool:
    """Return whether any target of systemd (its `*.wants` folder) wants a unit."""
    with suppress(FileNotFoundError), target.folder(UNITS) as units:
        for name in units.names():
            if name.endswith(".wants"):
                with suppress(OSError), target.folder(f"{UNITS}/{name}") as wants:
                    if wants.stat(unit) is not None:
                        return True
    return False


def _link(folder: Folder, name: str) -> str | None:
    """Return the target of a link; None if there is no link."""
    entry = folder.stat(name)
    if entry is None or not stat.S_ISLNK(entry.st_mode):
        return None
    return os.readlink(name, dir_fd=folder.descriptor)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()

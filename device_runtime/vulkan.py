"""The GPUs that the Vulkan loader lists (Vulkan 1.1, "Physical Device Enumeration").

A driver runs inside the program that uses it, and may end it: use `worker.gpus`, which runs this in
a process of its own.
"""

import ctypes

import msgspec

LOADER = "libvulkan.so.1"

_APPLICATION_INFO, _INSTANCE_CREATE_INFO = 0, 1  # VkStructureType
_CPU = 4  # VkPhysicalDeviceType
_VERSION_1_1 = 1 << 22 | 1 << 12
_MOST = 16


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU.

    Attributes:
        name: name that the driver gives it.
        driver: version of the driver, as a number of its own.
        software: the driver computes on the CPU.
    """

    name: str
    driver: int
    software: bool


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    """The GPUs of a machine.

    Attributes:
        gpus: the GPUs.
        problem: reason why there is none; empty if there is one.
    """

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


class _Application(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_Application)),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _Properties(ctypes.Structure):
    _fields_ = (
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_uint64 * 128),  # limits, 548 bytes and padding
    )


def gpus() -> Gpus:
    """List the GPUs, or the reason why there is none."""
    try:
        vulkan = ctypes.CDLL(LOADER)
    except OSError:
        return Gpus(problem=f"there is no Vulkan loader: {LOADER} cannot be loaded")
    application = _Application(type=_APPLICATION_INFO, api_version=_VERSION_1_1)
    wanted = _InstanceCreateInfo(
        type=_INSTANCE_CREATE_INFO, application=ctypes.pointer(application)
    )
    instance, count = ctypes.c_void_p(), ctypes.c_uint32(_MOST)
    devices = (ctypes.c_void_p * _MOST)()
    result = vulkan.vkCreateInstance(ctypes.byref(wanted), None, ctypes.byref(instance))
    if result == 0:
        result = vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    if result < 0:  # positive results are those of a list that is longer
        return Gpus(problem=f"no Vulkan driver can be used (VkResult {result})")
    listed = []
    for device in devices[: count.value]:
        properties = _Properties()
        vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), ctypes.byref(properties))
        listed.append(
            Gpu(
                name=properties.name.decode("utf-8", "replace"),
                driver=properties.driver_version,
                software=properties.type == _CPU,
            )
        )
    return Gpus(gpus=tuple(listed), problem="" if listed else "the Vulkan drivers list no GPU")

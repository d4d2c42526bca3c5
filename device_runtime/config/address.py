"""Addresses in options: host and port."""

from device_runtime.errors import ServiceError


def host_and_port(address: str) -> tuple[str, int]:
    """Split `HOST:PORT`; an IPv6 address is in brackets, which the result omits.

    Raises:
        ServiceError: the address is not of this form.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host != bare
    # isdecimal() is also true of other scripts' digits.
    valid = port.isascii() and port.isdecimal() and int(port) <= 65535
    if not bare or not valid or bracketed != (":" in bare):
        raise ServiceError(
            f"{address!r} is not an address to listen on",
            hint="Use HOST:PORT, for example 127.0.0.1:8080.",
        )
    return bare, int(port)

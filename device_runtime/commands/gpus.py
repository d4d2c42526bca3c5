"""`edgepack-runtime gpus`: what the Vulkan loader lists, for `worker.gpus`."""

import click


@click.command(hidden=True)
def gpus() -> None:
    """Print the GPUs with a Vulkan driver, as JSON."""
    import msgspec

    from device_runtime import vulkan
    from device_runtime.processor import prefer_system_library

    prefer_system_library()
    click.echo(msgspec.json.encode(vulkan.gpus()))

"""The status of a device that is well."""

from typing import Any

import msgspec

from device_runtime.status.board import Board
from device_runtime.status.report import (
    BOOT_ID,
    Figure,
    Identity,
    Requests,
    RuntimeStatus,
    Settings,
    now,
)
from device_runtime.update.outcome import UpdateState
from device_runtime.worker.health import Health
from device_runtime.worker.placement import ProcessorState


def status(**changes: Any) -> RuntimeStatus:
    """Make the status of a device that is well, with some changes."""
    well = RuntimeStatus(
        ts=now(),
        boot_id=BOOT_ID,
        device_id="dev-1",
        health=Health.READY,
        uptime_s=1.0,
        identity=Identity(
            model="tiny", release="0" * 64, version="1", profile="mobile", kit=None, runtime="0.1.0"
        ),
        settings=Settings(
            context_length=512,
            max_tokens=64,
            threads=0,
            kv_cache_mib=0,
            parallel=2,
            queue_limit=8,
            request_timeout=600,
        ),
        queue_length=0,
        running=0,
        requests=Requests(),
        tokens_per_s=Figure(),
        first_token_s=Figure(),
        worker_ends=0,
        worker_restarts=0,
        last_error="",
        compute_share=1.0,
        processor=ProcessorState(),
        vision=None,
        speech=None,
        self_check=None,
        update=UpdateState(state="none"),
        damage="",
        memory_bytes=1 << 20,
        worker_memory_bytes=1 << 20,
        board=Board(
            memory_available_bytes=1 << 30,
            disk_free_bytes=1 << 30,
            temperature_c=50.0,
            throttled=False,
            under_voltage=False,
        ),
        mqtt=None,
    )
    return msgspec.structs.replace(well, **changes)

"""`edgepack-runtime status`, as a person reads it."""

import msgspec

from device_runtime.commands.status import readable
from tests.support.statuses import status


def test_what_is_wrong_is_said() -> None:
    well = readable(msgspec.to_builtins(status()))
    assert "health:      ready" in well
    assert "damage" not in well
    assert "heat" not in well
    ill = readable(msgspec.to_builtins(status(damage="weights have changed", compute_share=0.5)))
    assert "damage:      weights have changed" in ill
    assert "heat:        it computes for 50 % of the time" in ill

"""Fixtures of the host side."""

import pytest

from packager.jobs import harness
from tests.support import jobs


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in the process of the tests: one of their own imports torch and transformers anew.

    How they do in processes of their own: `jobs/test_harness.py` and the integration tests.
    """
    monkeypatch.setattr(harness, "_process", jobs.here)

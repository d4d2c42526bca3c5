"""Clients as their users have them, against the frozen runtime with the default model."""

import os
from collections.abc import Callable, Iterator

import pytest

from scripts import tables
from tests.clients import environments, programs
from tests.clients.programs import CASES, CLIENTS, KNOWN
from tests.support.serving import Serving

pytestmark = pytest.mark.slow

Run = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module")
def installed() -> None:
    """The clients; skips without network, and fails where all tools are promised."""
    try:
        environments.node_modules()
        environments.python(environments.WITH_OPENAI_2)
    except OSError as error:
        reason = f"the clients cannot be installed: {error}"
        if os.environ.get("EDGEPACK_TESTS_REQUIRE") == "all":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def run(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a client once."""
    outcomes: dict[str, dict[str, str]] = {}
    release = programs.release(tmp_path_factory.mktemp("clients"))
    with Serving(release.folder) as server:
        model = server.get("/v1/models")["data"][0]["id"]

        def run(key: str) -> dict[str, str]:
            if key not in outcomes:
                outcomes[key] = programs.run(CLIENTS[key], server.url, model)
            return outcomes[key]

        yield run


@pytest.mark.parametrize("key", CLIENTS)
def test_client_works_but_for_what_is_known(run: Run, key: str) -> None:
    faults = run(key)
    assert set(CASES) <= faults.keys()
    failed = {case: fault for case, fault in faults.items() if fault}
    assert failed.keys() == KNOWN.get(key, {}).keys(), failed


def test_document_has_the_outcomes(run: Run) -> None:
    written = (tables.DOCS / "clients.md").read_text()
    current = programs.table({key: run(key) for key in CLIENTS})
    assert written == tables.filled(written, "clients", current), "run: python -m tests.clients"

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

WAYS = [
    pytest.param(key, marks=pytest.mark.soak if client.way else ())
    for key, client in CLIENTS.items()
]
"""The clients. The other ways of some to ask are for `make soak`."""


@pytest.fixture(scope="module")
def documented() -> list[str]:
    """The table in docs/clients.md, line by line."""
    text = (tables.DOCS / "clients.md").read_text()
    table = text.partition(tables.BEGIN.format("clients"))[2].partition(tables.END)[0]
    return table.strip().splitlines()


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


@pytest.mark.parametrize("key", WAYS)
def test_client_works_but_for_what_is_known(run: Run, key: str) -> None:
    faults = run(key)
    assert set(CASES) <= faults.keys()
    failed = {case: fault for case, fault in faults.items() if fault}
    assert failed.keys() == KNOWN.get(key, {}).keys(), failed


@pytest.mark.parametrize("key", WAYS)
def test_document_has_the_outcome(run: Run, documented: list[str], key: str) -> None:
    current = programs.table({key: run(key)}).splitlines()
    assert {*current} <= {*documented}, "run: python -m tests.clients"


def test_document_has_no_other_clients(documented: list[str]) -> None:
    names = [line.split(" | ")[0].removeprefix("| ") for line in documented[2:]]
    assert names == [client.name for client in CLIENTS.values()], "run: python -m tests.clients"

"""axe-core, which finds what keeps people with disabilities from using a page."""

import tarfile
from pathlib import Path

from playwright.sync_api import Page

from tests.support import npm

PACKAGE = "axe-core@4.14.1"


def violations(page: Page) -> list[str]:
    """Each violation in a page as it is shown now: its rule, what is wrong, and where."""
    if not page.evaluate("'axe' in window"):
        page.evaluate((npm.fetch("axe", PACKAGE, _keep) / "axe.min.js").read_text())
    results = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {violation['help']}: {node['html']}"
        for violation in results["violations"]
        for node in violation["nodes"]
    ]


def _keep(archive: tarfile.TarFile, folder: Path) -> None:
    content = archive.extractfile("package/axe.min.js")
    assert content is not None
    (folder / "axe.min.js").write_bytes(content.read())

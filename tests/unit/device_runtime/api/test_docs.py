"""docs/api.md tells what the code does."""

from scripts import api_docs


def test_the_file_is_what_the_code_gives() -> None:
    text = api_docs.FILE.read_text(encoding="utf-8")
    assert text == api_docs.render(), "write it again: python -m scripts.api_docs"

"""The table and the picture of a benchmark."""

from xml.etree import ElementTree

from device_runtime.bench import picture, table
from tests.support.benchmarks import benchmark


def test_table_has_all_figures() -> None:
    text = table.render(benchmark())
    for words in (
        "model <&> more 1.0.0 (int4) on cpu, 2 threads; medians of 3 rounds",
        "32 tokens     128.0  115.2 to 140.8",
        "context 512      90.0   81.0 to 99.0",
        "50 %",
        "20.0 GB/s, 18.0 to 22.0, over 100 MB",
        "315 MB loaded, 419 MB at its peak",
        "1.60 s, 1.44 to 1.76; 0 % cached",
        "RAPL: package-0",
        "2048 tokens   the context length is 1024 tokens",
        "Operator7",
        "2 others",
    ):
        assert words in text, text
    assert "Operator8" not in text


def test_table_says_what_a_device_cannot_tell() -> None:
    text = table.render(benchmark(bare=True))
    for words in (
        "not measured: 50 % of the files stayed in memory",
        "no sensor that this user may read",
        "this bundle does not tell",
    ):
        assert words in text, text
    for words in ("of the limit", "J/token", "GB/s", "None"):
        assert words not in text, text


def test_picture_is_svg_with_bars_and_the_limit() -> None:
    text = picture.render(benchmark())
    tree = ElementTree.fromstring(text)
    names = [element.get("class") for element in tree.iter()]
    assert names.count("bar") == 3
    assert names.count("limit") == 3  # one of each context, and that of the legend
    words = [element.text for element in tree.iter() if element.text]
    assert any("model <&> more" in word for word in words)
    assert "50 % of 200" in " ".join(words)
    assert "prefers-color-scheme: dark" in text


def test_picture_without_a_limit_has_bars_alone() -> None:
    tree = ElementTree.fromstring(picture.render(benchmark(contexts=(), bare=True)))
    names = [element.get("class") for element in tree.iter()]
    assert (names.count("bar"), names.count("limit")) == (1, 0)

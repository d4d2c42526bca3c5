"""A benchmark as a picture: bars of prefill and decode, and the memory's limit (SVG 1.1)."""

from collections.abc import Iterable
from html import escape

from device_runtime.bench.results import Benchmark, Spread

WIDTH, LABELS, FIGURES = 720, 150, 190
"""Width of the picture, of the names to the left and of the figures to the right, pixels."""
BAR, ROW, TOP = 18, 30, 64
STYLE = """
svg { --text: #1f2328; --muted: #59636e; --bar: #0969da; --limit: #d1242f; --back: #ffffff; }
@media (prefers-color-scheme: dark) {
svg { --text: #f0f6fc; --muted: #9198a1; --bar: #4493f8; --limit: #f85149; --back: #0d1117; } }
text { font: 13px system-ui, sans-serif; fill: var(--text); }
.title { font-size: 16px; font-weight: 600; } .muted { fill: var(--muted); }
.back { fill: var(--back); } .bar { fill: var(--bar); }
.range { stroke: var(--text); stroke-width: 1.5; }
.limit { stroke: var(--limit); stroke-width: 2; }
"""


def render(result: Benchmark) -> str:
    """Return the picture; it has the colours of the reader's light or dark mode."""
    lines: list[str] = []
    prefill = [(f"{case.tokens} tokens", case.tokens_per_s, None) for case in result.prefill]
    limit = result.bandwidth.bytes_per_s.median if result.bandwidth is not None else None
    decode = [
        (
            f"context {case.context}",
            case.tokens_per_s,
            limit / case.bytes_per_token if limit and case.bytes_per_token else None,
        )
        for case in result.decode
    ]
    y = TOP
    y = _bars(lines, y, "Prefill, tokens/s", prefill)
    y = _bars(lines, y, "Decode, tokens/s", decode)
    if limit:
        y += 8
        note = f"limit of the memory: {limit / 1e9:.1f} GB/s by the bytes that a token reads"
        lines.append(f'<line class="limit" x1="16" x2="16" y1="{y - 12}" y2="{y + 4}"/>')
        lines.append(_text(26, y, note, "muted"))
        y += ROW
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    title = f"{result.model} {result.version} ({result.precision})"
    about = f"{result.processor}, {threads}; medians of {result.rounds} rounds, lowest to highest"
    head = [_text(16, 26, title, "title"), _text(16, 46, about, "muted")]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
            f'width="{WIDTH}" height="{y}">',
            f"<title>{escape(title)}: speed</title>",
            f"<style>{STYLE}</style>",
            '<rect class="back" width="100%" height="100%" rx="6"/>',
            *head,
            *lines,
            "</svg>\n",
        )
    )


def _bars(
    lines: list[str], y: int, title: str, rows: Iterable[tuple[str, Spread, float | None]]
) -> int:
    """Add a title and its bars from this height on; return the height after them."""
    listed = list(rows)
    if not listed:
        return y
    most = max(max(spread.high, limit or 0) for _, spread, limit in listed) or 1
    scale = (WIDTH - LABELS - FIGURES) / most
    y += 18
    lines.append(_text(16, y, title, "title"))
    y += 14
    for name, spread, limit in listed:
        middle = y + BAR / 2
        low, high = LABELS + spread.low * scale, LABELS + spread.high * scale
        lines += [
            _text(16, y + 14, name),
            f'<rect class="bar" x="{LABELS}" y="{y}" width="{spread.median * scale:.1f}" '
            f'height="{BAR}" rx="2"/>',
            f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
        ]
        figure = f"{spread.median:.1f}"
        if limit is not None:
            x = LABELS + limit * scale
            lines.append(
                f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + BAR + 3}"/>'
            )
            figure += f"  ({spread.median / limit * 100:.0f} % of {limit:.0f})"
        lines.append(_text(WIDTH - FIGURES + 16, y + 14, figure))
        y += ROW
    return y + 8


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{attribute}>{escape(text)}</text>'

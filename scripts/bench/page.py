"""docs/performance.md, from the rounds that were measured."""

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from packager.aside import written_aside
from packager.units import MEGA
from scripts.bench.protocol import ROOT
from scripts.bench.rounds import Round, Rounds, median, ratios

PAGE = ROOT / "docs" / "performance.md"
HEAD = """\
# Performance

`make bench` measures edgepack and other runtimes on the machine that it runs on, and writes this
page: nothing here is written by hand. It takes hours the first time, when it builds llama.cpp with
all instructions of the machine and makes all forms of the models.

The contestants are processes of their own, all loaded before the first round, and take turns; who
is first changes from round to round. All get the same token ids and a thread for each core, and
decode greedily. Figures are medians of the rounds; ratios are taken round by round, and are medians
too, with the smallest and the largest in brackets. KL is the divergence from the original weights,
nats a token, on text that no model here wrote (the topics of Python's documentation). llama.cpp's
figures without a server are the better ones of a run with flash attention and one without it.
edgepack's engine asks for huge pages, as in the service; the others run as they come.

A form of edgepack is compared with the fastest of llama.cpp's that has at least its size and its
KL, and the form that is served with the one that llama.cpp serves. `loop` is the bare loop over
ONNX Runtime GenAI with the same model; `llama-server` is llama.cpp's own server, in C++.
"""


class Line(NamedTuple):
    """A line of the first table: a figure of edgepack against another one.

    Attributes:
        what: what is compared.
        rounds: rounds of the part.
        ours: contestant.
        theirs: contestant.
        figure: name of the figure.
        unit: unit of the figure.
        scale: what figures are divided by for the table.
    """

    what: str
    rounds: Sequence[Round]
    ours: str
    theirs: str
    figure: str
    unit: str
    scale: float = 1


def write(rounds: Rounds, names: Sequence[str]) -> None:
    """Write the page."""
    with written_aside(PAGE, "Free some space.") as file:
        file.write(text(rounds, names, datetime.date.today()).encode())


def text(rounds: Rounds, names: Sequence[str], today: datetime.date) -> str:
    """Return the page."""
    measured = [name for name in names if rounds.of(name, "engines")]
    parts = [HEAD, *_machine(rounds, measured, today)]
    lines = [line for name in measured for line in _lines(rounds, name)]
    parts.append("## At a glance\n\n" + table(GLANCE, [_cells(line) for line in lines]))
    for name in measured:
        parts += _model(rounds, name)
    return "\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


GLANCE = ("what", "edgepack", "the other", "ratio", "rounds")


def _cells(line: Line) -> list[str]:
    ours = median(line.rounds, line.ours, line.figure)
    theirs = median(line.rounds, line.theirs, line.figure)
    return [
        line.what,
        _number(ours, line.scale, line.unit),
        f"{_number(theirs, line.scale, line.unit)} ({line.theirs})",
        spread(ratios(line.rounds, line.ours, line.theirs, line.figure)),
        str(len(line.rounds)),
    ]


def spread(values: Sequence[float]) -> str:
    """Format the median of some ratios, the smallest and the largest."""
    if not values:
        return ""
    ranked = sorted(values)
    middle = (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
    return f"{middle:.2f} ({ranked[0]:.2f}–{ranked[-1]:.2f})"


def _number(value: float | None, scale: float = 1, unit: str = "") -> str:
    """Format a figure with three digits or more."""
    if value is None:
        return ""
    value /= scale
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:.{digits}f}{' ' if unit else ''}{unit}"


def rivals(forms: dict[str, int], quality: Round, ours: str, *, random: bool) -> list[str]:
    """Return llama.cpp's forms that a form of edgepack is compared with.

    They have at least its size and its KL divergence, which randomly filled models do not have.
    """
    return [
        name
        for name, size in forms.items()
        if name.startswith("llama.cpp ")
        and size >= forms[ours]
        and (random or quality[name]["kl"] >= quality[ours]["kl"])
    ]


def _lines(rounds: Rounds, name: str) -> Iterator[Line]:
    """Yield the lines of a model in the first table."""
    about = rounds.about(name, "engines")
    engines, (quality, *_) = rounds.of(name, "engines"), (*rounds.of(name, "quality"), {})
    forms: dict[str, int] = about["forms"]
    first, second = about["workloads"]
    random = about["random"]
    served = [next(it for it in forms if it.startswith(who)) for who in ("edgepack ", "llama.cpp ")]
    for ours in forms:
        if not ours.startswith("edgepack "):
            continue
        others = rivals(forms, quality, ours, random=random) if quality or random else []
        for figure, what in {
            "decode_first": f"decode after {first[0]} tokens",
            "decode_second": f"decode after {second[0]} tokens",
            "prefill_second": f"prefill of {second[0]} tokens",
        }.items():
            fastest = sorted(others, key=lambda it: median(engines, it, figure) or 0)[-1:]
            # What is served is compared in any case: it may be the same weights.
            for theirs in dict.fromkeys([*fastest, *(served[1:] if ours == served[0] else [])]):
                title = f"{name}: {what}, {ours.removeprefix('edgepack ')}"
                yield Line(title, engines, ours, theirs, figure, "tokens/s")
    yield from _served(rounds, name)


def _served(rounds: Rounds, name: str) -> Iterator[Line]:
    start = rounds.of(name, "start")
    server = "llama-server"
    kinds = {
        "start": (
            ("start of the server to the first token", "start_s", "s", 1),
            ("resident memory after a conversation", "resident", "MB", MEGA),
        ),
        "json": (
            ("JSON with 20 fields", "seconds", "s", 1),
            ("JSON with 20 fields", "tokens_per_s", "tokens/s", 1),
        ),
        "turns": (
            ("first token of a first turn", "first_turn_s", "s", 1),
            ("first token of a second turn", "second_turn_s", "s", 1),
        ),
        "together": (("eight requests at once", "eight", "tokens/s", 1),),
    }
    for part, lines in kinds.items():
        for what, figure, unit, scale in lines:
            if rounds.of(name, part):
                measured = rounds.of(name, part)
                yield Line(f"{name}: {what}", measured, "edgepack", server, figure, unit, scale)
    http = rounds.of(name, "http")
    if http:
        what = f"{name}: stream over HTTP"
        yield Line(what, http, "edgepack", "loop", "tokens_per_s", "tokens/s")
        yield Line(what, http, "edgepack", server, "tokens_per_s", "tokens/s")
    for who in ("edgepack", server):
        both = [
            {"eight": {"rate": one[who]["eight"]}, "one": {"rate": one[who]["one"]}}
            for one in rounds.of(name, "together")
        ]
        if both:
            what = f"{name}: {who}, eight requests at once, to one alone"
            yield Line(what, both, "eight", "one", "rate", "tokens/s")
    memory = [
        {
            "resident": {"size": one["edgepack"]["resident"]},
            "file and KV cache": {"size": one["edgepack"]["file_and_cache"]},
        }
        for one in start
    ]
    if memory:
        what = f"{name}: resident memory, to file and KV cache"
        yield Line(what, memory, "resident", "file and KV cache", "size", "MB", MEGA)


def _machine(rounds: Rounds, names: Sequence[str], today: datetime.date) -> Iterator[str]:
    """Yield the machine and the versions, of each group of models that were measured alike."""
    seen: list[Any] = []
    for name in names:
        about = rounds.about(name, "engines")
        same = {
            key: about[key] for key in ("cpu", "cores", "memory", "flags", "system", "versions")
        }
        if same not in seen:
            seen.append(same)
            flags = ", ".join(about["flags"])
            yield (
                f"Measured on {about['cores']} cores of {about['cpu']} ({flags}), "
                f"{about['memory']} of memory, {about['system']}; {', '.join(about['versions'])}; "
                f"llama.cpp with {about['llama.cpp']}. Written {today.isoformat()}.\n"
            )


def _model(rounds: Rounds, name: str) -> Iterator[str]:
    """Yield the section of a model."""
    about = rounds.about(name, "engines")
    engines, (quality, *_) = rounds.of(name, "engines"), (*rounds.of(name, "quality"), {})
    random = " Its weights are randomly filled, in the published shape." if about["random"] else ""
    busy = max(figures.get("others_busy", 0) for one in engines for figures in one.values())
    yield (
        f"## {name}\n\nWithout a server, tokens a second.{random} While one contestant ran, all "
        f"others together took {busy:.0%} of a processor at most.\n"
    )
    first, second = about["workloads"]
    head = (
        *("runtime and form", "MB", "KL", "top-1"),
        *(
            f"{verb} {length}"
            for length, _ in (first, second)
            for verb in ("prefill", "decode after")
        ),
    )
    rows = [
        [
            form,
            f"{size / MEGA:.1f}",
            _number(quality.get(form, {}).get("kl")),
            _number(quality.get(form, {}).get("top1")),
            *(
                _number(median(engines, form, f"{verb}_{which}"))
                for which in ("first", "second")
                for verb in ("prefill", "decode")
            ),
        ]
        for form, size in about["forms"].items()
    ]
    yield table(head, rows)
    rows = [row for server in SERVERS if (row := _server_row(rounds, name, server))]
    if rows:
        yield (
            "The servers, each with the first form of its runtime in the table above; "
            "`llama_cpp.server` is the one of the Python bindings.\n"
        )
        yield table(["server", *(title for title, *_ in COLUMNS)], rows)


SERVERS = ("edgepack", "llama-server", "llama_cpp.server")
COLUMNS: Sequence[tuple[str, str, str, float]] = (
    ("start to first token, s", "start", "start_s", 1),
    ("resident, MB", "start", "resident", MEGA),
    ("of it anonymous", "start", "anonymous", MEGA),
    ("stream, tokens/s", "http", "tokens_per_s", 1),
    ("JSON, s", "json", "seconds", 1),
    ("JSON, tokens", "json", "tokens", 1),
    ("one request, tokens/s", "together", "one", 1),
    ("eight, tokens/s", "together", "eight", 1),
    ("first turn, s", "turns", "first_turn_s", 1),
    ("second turn, s", "turns", "second_turn_s", 1),
)


def _server_row(rounds: Rounds, name: str, server: str) -> list[str]:
    cells = [
        _number(median(rounds.of(name, part), server, figure), scale)
        for _, part, figure, scale in COLUMNS
    ]
    return [server, *cells] if any(cells) else []

"""Compare edgepack with other runtimes on this machine, and write docs/performance.md:

    python -m scripts.bench [--models A,B] [--only PART,PART] [--rounds N] [--seconds S]

The first call builds llama.cpp and all forms of the models: hours, and 60 GB of disk for all four.
Rounds are kept in the cache, in bench/rounds: a call measures those that are missing, and ends
after about S seconds if that is given. The page is written from all rounds there are.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from packager import cache, console
from packager.units import duration
from scripts.bench import engines, machine, page, served
from scripts.bench.llama import Llama, installed
from scripts.bench.models import PLANS, Model, prepared
from scripts.bench.rounds import MeasureRound, Rounds

Part = Callable[[Model, Llama], AbstractContextManager[MeasureRound]]

PARTS: Mapping[str, Part] = {
    "engines": engines.engines,
    "quality": engines.quality,
    "start": served.start,
    "http": served.http,
    "json": served.structured,
    "together": served.together,
    "turns": served.turns,
}
ONCE = ("quality",)
"""Parts of which one round is enough."""
TRAINED = ("quality", "http", "json", "together", "turns")
"""Parts that need weights that answer sensibly."""
CHATTING = ("start", "http", "json", "together", "turns")
"""Parts that need a chat template."""
ROUNDS = 9


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="scripts.bench", description=__doc__)
    parser.add_argument("--models", default=",".join(PLANS))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    names, parts = options.models.split(","), options.only.split(",")
    for name, known in (*((name, PLANS) for name in names), *((part, PARTS) for part in parts)):
        if name not in known:
            parser.error(f"there is no {name!r}: choose among {', '.join(known)}")
    end = time.monotonic() + options.seconds
    rounds = Rounds(cache.root() / "bench" / "rounds")
    llama = installed()
    for name in names:
        model = prepared(name, llama)
        about = machine.about(model, llama)
        for part in parts:
            fits = not (model.random and part in TRAINED) and (model.chats or part not in CHATTING)
            if fits:
                wanted = 1 if part in ONCE else options.rounds
                _measure(rounds, model, part, about, wanted, llama, end)
    page.write(rounds, tuple(PLANS))


def _measure(
    rounds: Rounds,
    model: Model,
    part: str,
    about: dict[str, Any],
    wanted: int,
    llama: Llama,
    end: float,
) -> None:
    """Measure the missing rounds of a part, until a time of the monotonic clock."""
    begin = rounds.keep(model.name, part, about)
    if begin >= wanted or time.monotonic() > end:
        return
    with console.step(f"{model.name}: {part}"), PARTS[part](model, llama) as measure:
        started = time.monotonic()
        for number in range(begin, wanted):
            rounds.add(model.name, part, measure(number))
            taken = (time.monotonic() - started) / (number + 1 - begin)
            left = duration(taken * (wanted - number - 1))
            console.note(f"round {number + 1} of {wanted}, {left} left")
            if time.monotonic() + taken > end:
                return


if __name__ == "__main__":
    main()

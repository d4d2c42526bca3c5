"""All sweeps, whole: `python -m tests.power_cuts`. Prints how many moments were tried."""

import time
from collections import Counter

from tests.power_cuts import sweeps
from tests.power_cuts.scenarios import SCENARIOS


def main() -> None:
    """Run the sweeps; the first failure ends them with its traceback."""
    started = time.monotonic()
    total: Counter[str] = Counter()
    for name in SCENARIOS:
        counts = {
            "killed": sweeps.kill(name),
            "lost": sweeps.lose(name),
            "failed": sweeps.fail(name),
        }
        total.update(counts)
        print(f"{name:<9}", *(f"{kind} {count:>5}" for kind, count in counts.items()), flush=True)
    print("all      ", *(f"{kind} {count:>5}" for kind, count in total.items()))
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

"""Mutations of binary files."""

import random
from collections.abc import Sequence


def mutated(data: bytes, source: random.Random, numbers: Sequence[bytes]) -> bytes:
    """Write a number somewhere, or repeat, leave out or move a part."""
    place, length = source.randrange(len(data) + 1), source.randrange(64)
    match source.randrange(4):
        case 0:
            number = source.choice(numbers)
            return data[:place] + number + data[place + len(number) :]
        case 1:
            return data[: place + length] + data[place:]
        case 2:
            return data[:place] + data[place + length :]
    other = source.randrange(len(data) + 1)
    return data[:place] + data[other : other + length] + data[place:]

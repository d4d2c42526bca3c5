"""Sounds to measure speech models on, each with a text that a speech model may expect.

Nobody speaks in them: they are vowels, tones, chirps and noise, the same ones each time, and the
text is ordinary. What a model knows of language and what it hears both shape its probabilities,
so damage to either shows.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from packager.jobs.recordings import RATE

Samples = NDArray[np.float64]

SENTENCES = (
    ("en", "The train to the coast leaves at half past nine from platform four."),
    ("en", "Please turn off the lights in the kitchen and close the garage door."),
    ("de", "Morgen wird es im Norden windig, und am Abend kann es etwas regnen."),
    ("en", "I have put the blue folder on your desk, next to the printer."),
    ("fr", "Le médecin vous recevra demain matin à dix heures et quart."),
    ("en", "What is the temperature of the water in the second tank?"),
    ("es", "La reunión de los jueves se ha pasado a la sala grande."),
    ("en", "She bought three apples, a loaf of bread and a bottle of milk."),
    ("en", "Set a timer for twenty five minutes and remind me to call the office."),
    ("zh", "今天下午我们去公园散步，好吗？"),
    ("en", "The pump stopped twice last night, so we changed the filter."),
    ("en", "Well, I think we should ask the neighbours before we cut the tree."),
)
"""Sentences, and their languages."""

_VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Resonances of vowels, Hz (Peterson and Barney, 1952: ah, ee, oo, eh)."""


def drawn() -> Iterator[tuple[str, str, NDArray[np.int16]]]:
    """Make the sounds.

    Yields:
        The language and the text that belong to a sound, and its samples.
    """
    kinds = (_voice, _chirp, _voice, _noise, _voice, _tones)
    for number, (language, text) in enumerate(SENTENCES):
        random = np.random.default_rng(number)
        sound = kinds[number % len(kinds)](random, 3 + number % 4)
        sound = 0.3 * sound / np.abs(sound).max() + 0.002 * random.standard_normal(len(sound))
        yield language, text, (sound * 32767).astype(np.int16)


def _time(seconds: float) -> Samples:
    return np.arange(int(seconds * RATE)) / RATE


def _voice(random: np.random.Generator, seconds: int) -> Samples:
    """Make syllables: a buzz of harmonics that the resonances of vowels shape."""
    syllables = []
    for _ in range(4 * seconds):
        time = _time(0.25)
        pitch = random.uniform(90, 220)
        resonances = np.array(_VOWELS[random.integers(len(_VOWELS))])
        harmonics = pitch * np.arange(1, int(4000 / pitch))
        near: Samples = 1 / (1 + ((harmonics[:, None] - resonances) / 100) ** 2)
        waves = np.sin(2 * np.pi * harmonics[:, None] * time)
        envelope = np.hanning(len(time)) * random.choice((0.2, 1.0, 1.0))
        syllables.append((near.sum(1) @ waves) * envelope)
    return np.concatenate(syllables)


def _chirp(random: np.random.Generator, seconds: int) -> Samples:
    time = _time(seconds)
    first, last = random.uniform(200, 3000, 2)
    sound: Samples = np.sin(2 * np.pi * (first + (last - first) * time / seconds / 2) * time)
    return sound


def _noise(random: np.random.Generator, seconds: int) -> Samples:
    time = _time(seconds)
    smooth = np.convolve(random.standard_normal(len(time)), np.hanning(16), "same")
    sound: Samples = smooth * (1.2 + np.sin(2 * np.pi * 3 * time))
    return sound


def _tones(random: np.random.Generator, seconds: int) -> Samples:
    return np.concatenate(
        [np.sin(2 * np.pi * random.uniform(150, 2500) * _time(0.5)) for _ in range(2 * seconds)]
    )

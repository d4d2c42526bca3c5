"""Short tasks whose answers contain a value that a program can find: data, and the comparison.

A distance of probabilities says little of what it does to answers. So both models solve these tasks
greedily, and the values in their answers are compared, with each other and with the right ones.
Nothing is fitted to them: no task is in the prompts of calibration.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from device_runtime.bundle.quantization import TaskAnswer, TaskCounts
from packager.jobs.measure import Answer

YES_NO = ("yes", "no")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("April", "February", "May", "June", "July", "September", "October", "December")
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task with one right value.

    Attributes:
        prompt: the task.
        right: the right value.
        words: words to look for in an answer, in any case; the value is the first of them there.
        ordered: the value is all words instead, in the order of the answer.
        key: key of a JSON object to look for; its value is the value.

    Without words or a key, the value is the first whole number that the prompt does not contain.
    """

    prompt: str
    right: str
    words: tuple[str, ...] = ()
    ordered: bool = False
    key: str = ""

    def value(self, answer: str) -> str:
        """Extract the value from an answer; empty if there is none."""
        if self.key:
            # The end of the object may be missing from a short answer.
            match = re.search(rf'"{re.escape(self.key)}"\s*:\s*(?:"([^"]*)"|(\d+))', answer)
            return (match[1] or match[2] or "").casefold() if match else ""
        if not self.words:
            asked = _numbers(self.prompt)
            return next((number for number in _numbers(answer) if number not in asked), "")
        any_word = "|".join(map(re.escape, self.words))
        places = re.findall(rf"(?<!\w)(?:{any_word})(?!\w)", answer, re.IGNORECASE)
        words = list(dict.fromkeys(word.casefold() for word in places))
        if self.ordered:
            return ", ".join(words) if len(words) == len(self.words) else ""
        return words[0] if words else ""


TASKS = (
    Task(prompt="What is 7 + 5?", right="12"),
    Task(
        prompt="What is the capital of Italy?",
        right="rome",
        words=("Rome", "Milan", "Florence", "Venice", "Naples", "Turin"),
    ),
    Task(prompt="Is ice colder than steam? Answer yes or no.", right="yes", words=YES_NO),
    Task(
        prompt='Which day is named in this note? "The technician comes on Thursday at nine."',
        right="thursday",
        words=DAYS,
    ),
    Task(
        prompt='Write as a JSON object with the key "age": Tom is 31 years old.',
        right="31",
        key="age",
    ),
    Task(
        prompt="What is the Spanish word for house?",
        right="casa",
        words=("casa", "hogar", "maison", "Haus", "mesa", "calle"),
    ),
    Task(
        prompt="Sort these numbers from smallest to largest: 8, 3, 5.",
        right="3, 5, 8",
        words=("3", "5", "8"),
        ordered=True,
    ),
    Task(prompt="How many days are in a week? Answer with a number.", right="7"),
    Task(
        prompt='What is the opposite of "hot"? Answer with one word.',
        right="cold",
        words=("cold", "cool", "warm", "freezing"),
    ),
    Task(prompt="What is 9 times 6?", right="54"),
    Task(
        prompt="What is the capital of Japan?",
        right="tokyo",
        words=("Tokyo", "Kyoto", "Osaka", "Nagoya", "Beijing", "Seoul"),
    ),
    Task(prompt="Is 15 an even number? Answer yes or no.", right="no", words=YES_NO),
    Task(
        prompt='What is the order number in this message? "Order 5821 left the depot on 3 May."',
        right="5821",
        words=("5821", "3"),
    ),
    Task(
        prompt='Is this comment positive or negative? "I love it."',
        right="positive",
        words=("positive", "negative"),
    ),
    Task(
        prompt='Give a JSON object with the key "name" for a cat called Tom.',
        right="tom",
        key="name",
    ),
    Task(
        prompt="Which month comes after March?",
        right="april",
        words=MONTHS,
    ),
    Task(
        prompt="Sort from A to Z: cherry, banana, apple",
        right="apple, banana, cherry",
        words=("cherry", "banana", "apple"),
        ordered=True,
    ),
    Task(prompt="Which planet is closest to the Sun?", right="mercury", words=PLANETS),
    Task(
        prompt="Maria is 42 years old and lives in Oslo. Her son lives in Rome. In which city does "
        "Maria live?",
        right="oslo",
        words=("Oslo", "Rome"),
    ),
    Task(
        prompt="Which language is spoken in Brazil?",
        right="portuguese",
        words=("Portuguese", "Spanish", "Brazilian", "English", "French"),
    ),
    Task(
        prompt="What is the capital of Egypt?",
        right="cairo",
        words=("Cairo", "Alexandria", "Luxor", "Giza", "Aswan"),
    ),
    Task(prompt="Can a fish live under water? Answer yes or no.", right="yes", words=YES_NO),
    Task(
        prompt='What colour is the car? "A red car stands beside a blue house."',
        right="red",
        words=("red", "blue"),
    ),
    Task(prompt="In which year did the Second World War end?", right="1945"),
)


def values(answers: Iterable[Answer]) -> tuple[TaskAnswer, ...]:
    """Extract the values from both models' answers to the tasks; other prompts are left out."""
    tasks = {task.prompt: task for task in TASKS}
    return tuple(
        TaskAnswer(
            prompt=answer.prompt,
            right=tasks[answer.prompt].right,
            reference=tasks[answer.prompt].value(answer.reference),
            quantized=tasks[answer.prompt].value(answer.quantized),
        )
        for answer in answers
        if answer.prompt in tasks
    )


def count(answers: Sequence[TaskAnswer]) -> TaskCounts:
    """Count the values that both models have in common, and those that are right.

    Tasks for which the reference model gives no value are not compared: two answers without a value
    may be anything.
    """
    compared = [answer for answer in answers if answer.reference]
    return TaskCounts(
        tasks=len(answers),
        compared=len(compared),
        agreed=sum(answer.quantized == answer.reference for answer in compared),
        reference_right=sum(answer.reference == answer.right for answer in answers),
        quantized_right=sum(answer.quantized == answer.right for answer in answers),
    )


def _numbers(text: str) -> list[str]:
    """List the whole numbers of a text, without separators of thousands."""
    return re.findall(r"\d+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))

"""Short tasks: values are found in answers as people would find them, and counted."""

import pytest

from device_runtime.bundle.quantization import TaskAnswer, TaskCounts
from packager.evaluation import evaluate, prompts, tasks
from packager.evaluation.tasks import TASKS, Task
from packager.jobs.measure import Answer

NUMBER = Task(prompt="What is 7 + 5?", right="12")
YES_NO = Task(prompt="Is it?", right="yes", words=("yes", "no"))
KEY = Task(prompt='JSON with "age": Tom is 31.', right="31", key="age")
ORDER = Task(prompt="Sort: 8, 3, 5", right="3, 5, 8", words=("3", "5", "8"), ordered=True)


@pytest.mark.parametrize(
    ("task", "answer", "value"),
    [
        (NUMBER, "12", "12"),
        (NUMBER, "To add 7 and 5: 7 + 5 = 12. Then 13.", "12"),
        (NUMBER, "It is 1,200.", "1200"),
        (NUMBER, "7 + 5 = 5 + 7", ""),
        (NUMBER, "Twelve.", ""),
        (YES_NO, "Yes, it is not no.", "yes"),
        (YES_NO, "NO!", "no"),
        (YES_NO, "I know nothing, yesterday.", ""),
        (KEY, '{"name": "Tom", "age": 31}', "31"),
        (KEY, '```json\n{\n  "age" : "31", "city"', "31"),
        (KEY, '{"agent": 31}', ""),
        (KEY, '{"age": ', ""),
        (KEY, "Tom's age is 31.", ""),
        (ORDER, "3, 5, 8", "3, 5, 8"),
        (ORDER, "Sorted: 3 < 5 < 8 (3 first)", "3, 5, 8"),
        (ORDER, "8, 3, 5", "8, 3, 5"),
        (ORDER, "3 and 5, 85", ""),
        (NUMBER, "", ""),
    ],
)
def test_value_of_an_answer(task: Task, answer: str, value: str) -> None:
    assert task.value(answer) == value


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.prompt)
def test_right_answer_is_taken_for_right_and_the_question_alone_is_not(task: Task) -> None:
    answer = f'{{"{task.key}": "{task.right.title()}"}}' if task.key else f"It is: {task.right}."
    assert task.value(answer) == task.right
    if not task.ordered:
        assert not task.value("I cannot say.")


def test_no_prompt_is_in_two_lists_and_the_words_are_told_apart() -> None:
    listed = [task.prompt for task in TASKS]
    assert len(set(listed)) == len(listed) >= 20
    assert not {*listed} & {*prompts.CALIBRATION, *prompts.EVALUATION, *prompts.SHOWN}
    for task in TASKS:
        words = [word.casefold() for word in task.words]
        assert len(set(words)) == len(words)


def _answers(*values: tuple[str, str, str]) -> list[TaskAnswer]:
    return [
        TaskAnswer(prompt="p", right=right, reference=reference, quantized=quantized)
        for right, reference, quantized in values
    ]


def test_only_values_of_the_reference_are_compared() -> None:
    answers = _answers(
        ("1", "1", "1"),
        ("1", "2", "2"),
        ("1", "1", "2"),
        ("1", "1", ""),
        ("1", "", ""),
        ("1", "", "1"),
    )
    assert tasks.count(answers) == TaskCounts(
        tasks=6, compared=4, agreed=2, reference_right=3, quantized_right=2
    )
    assert tasks.count([]).compared == 0


def test_answers_for_people_and_answers_to_tasks_are_told_apart() -> None:
    shown = Answer(prompt=prompts.SHOWN[0], reference="Paris", quantized="Rome")
    task = Answer(prompt=TASKS[0].prompt, reference="It is 12.", quantized="13?")
    assert [answer.prompt for answer in evaluate.shown([shown, task])] == [shown.prompt]
    (value,) = tasks.values([shown, task])
    assert (value.right, value.reference, value.quantized) == ("12", "12", "13")

"""Compare lm-evaluation-harness on a server and on transformers, with the same weights:

    python -m scripts.lm_eval BUNDLE.epk MODEL LM_EVAL

The bundle is a build of MODEL (as `edgepack build --model` has it) with `--recipe fp32`, LM_EVAL
the harness's program in its own environment (`pip install 'lm_eval[api]' torch transformers`).
The tasks are made here, so nothing is fetched: 100 multiple-choice items (which of four endings
belongs to the beginning of a sentence), 8 passages whose log-likelihood is asked for, and 20 sums
that the model answers greedily, until a stop string.

Prints one JSON object: for each way to run the harness its own scores and its seconds, loading
included; for those on the server also how many texts are those of transformers, and the largest
distance between the two log-likelihoods of a choice and of a passage.
"""

import json
import os
import pydoc_data.topics
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager import console, launch
from packager.models.source import as_hf_folder, resolve
from tests.support.serving import Serving

ITEMS, PASSAGES, SUMS = 100, 8, 20
ENDING_WORDS = 5
SEED = 1
PROSE = re.compile(r"[A-Z][^`{}<>|#=]{300,}\.")

TASKS: dict[str, dict[str, Any]] = {
    "endings": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{beginning}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "passages": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "sums": {
        "output_type": "generate_until",
        "doc_to_text": "Question: What is 2 plus 3?\nAnswer: 2 plus 3 is 5.\n\n"
        "Question: What is {{a}} plus {{b}}?\nAnswer:",
        "doc_to_target": "{{a}} plus {{b}} is {{a + b}}.",
        "filter_list": [{"name": "none", "filter": [{"function": "remove_whitespace"}]}],
        "generation_kwargs": {
            "until": ["\n\n", "Question:", "Answer:", "</s>", "\nThe"],
            "max_gen_toks": 40,
            "do_sample": False,
        },
        "metric_list": [{"metric": "exact_match"}],
    },
}

COMPLETIONS = {
    "ids": ("tokenized_requests=True,num_concurrent=1", "1"),
    "ids, batches of 4, 4 requests at once": ("tokenized_requests=True,num_concurrent=4", "4"),
    "texts": ("tokenized_requests=False,num_concurrent=1", "1"),
    "texts, batches of 4, 4 requests at once": ("tokenized_requests=False,num_concurrent=4", "4"),
}
"""Arguments of `local-completions`, and the size of its batches."""

CHATS = {"chat": "num_concurrent=1", "chat, 4 requests at once": "num_concurrent=4"}


def documents() -> dict[str, list[dict[str, Any]]]:
    """Make the items of the tasks; the same ones each time."""
    parts = [part for topic in pydoc_data.topics.topics.values() for part in topic.split("\n\n")]
    prose = [" ".join(part.split()) for part in dict.fromkeys(parts) if PROSE.fullmatch(part)]
    beginnings = {
        " ".join(words[-ENDING_WORDS:]): " ".join(words[:-ENDING_WORDS])
        for part in prose
        for words in map(str.split, re.split(r"(?<=\.) ", part))
        if len(words) >= 2 * ENDING_WORDS
    }
    chance = random.Random(SEED)  # noqa: S311
    endings = chance.sample(list(beginnings), ITEMS)
    items = []
    for own in endings:
        choices = [own, *chance.sample([ending for ending in endings if ending != own], 3)]
        chance.shuffle(choices)
        label = choices.index(own)
        items.append({"beginning": beginnings[own], "choices": choices, "label": label})
    numbers = range(2, 50)
    return {
        "endings": items,
        "passages": [{"text": part} for part in chance.sample(prose, PASSAGES)],
        "sums": [{"a": chance.choice(numbers), "b": chance.choice(numbers)} for _ in range(SUMS)],
    }


def write_tasks(folder: Path) -> None:
    """Write the tasks as the harness reads them: YAML, which JSON is part of, and data."""
    for name, items in documents().items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **TASKS[name],
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the harness.

    Attributes:
        scores: its own scores, by metric, and its seconds.
        logprobs: log-likelihoods of the choices or the passage, by task and item.
        texts: answers, by task and item.
    """

    scores: dict[str, float]
    logprobs: dict[tuple[str, int], list[float]]
    texts: dict[tuple[str, int], str]


class Harness:
    """The harness in an environment of its own, with our tasks.

    Args:
        program: path of `lm_eval`.
        tasks: folder of the tasks.
    """

    def __init__(self, program: str, tasks: Path) -> None:
        self._program, self._tasks = program, tasks

    def run(self, names: str, model: str, arguments: str, *options: str) -> Run:
        """Run tasks with a model."""
        with tempfile.TemporaryDirectory() as output:
            subprocess.run(
                [
                    *(self._program, "run", "--model", model, "--model_args", arguments, *options),
                    *("--tasks", names, "--include_path", str(self._tasks)),
                    *("--log_samples", "--output_path", output),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(self._tasks / "home")},
            )
            return read(Path(output), names)


def read(output: Path, names: str) -> Run:
    """Read what the harness wrote about these tasks."""
    (report,) = output.rglob("results_*.json")
    results = json.loads(report.read_text(encoding="utf-8"))
    scores = {
        metric.removesuffix(",none"): round(value, 4)
        for name in names.split(",")
        for metric, value in results["results"][name].items()
        if metric.endswith(",none") and "stderr" not in metric
    }
    answers = {
        (name, sample["doc_id"]): [answer for (answer,) in sample["resps"]]
        for name in names.split(",")
        for path in output.rglob(f"samples_{name}_*.jsonl")
        for sample in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }
    return Run(
        scores={**scores, "seconds": round(float(results["total_evaluation_time_seconds"]), 1)},
        logprobs={
            # Of a choice it also says whether greedy decoding gives the same.
            item: [float(score[0] if isinstance(score, list) else score) for score in answer]
            for item, answer in answers.items()
            if item[0] != "sums"
        },
        texts={item: answer[0] for item, answer in answers.items() if item[0] == "sums"},
    )


def compare(run: Run, reference: Run) -> dict[str, Any]:
    """Compare a run with that of transformers, item by item."""
    assert run.logprobs.keys() == reference.logprobs.keys()
    assert run.texts.keys() == reference.texts.keys()
    equal = sum(text == reference.texts[item] for item, text in run.texts.items())
    distances: dict[str, float] = {}
    for (task, number), scores in run.logprobs.items():
        for own, other in zip(scores, reference.logprobs[task, number], strict=True):
            distances[task] = max(distances.get(task, 0.0), round(abs(own - other), 5))
    figures: dict[str, Any] = {**run.scores, "equal_texts": f"{equal} of {len(run.texts)}"}
    return figures | ({"largest_distance": distances} if distances else {})


def main() -> None:
    """Print the figures."""
    release = launch.release_of(Path(sys.argv[1]))
    folder = as_hf_folder(resolve(sys.argv[2]))
    program = sys.argv[3]
    with tempfile.TemporaryDirectory() as tasks, Serving(release.folder) as serving:
        write_tasks(Path(tasks))
        harness = Harness(program, Path(tasks))
        served = serving.get("/v1/models")["data"][0]["id"]
        address = f"model={served},tokenizer={folder},base_url={serving.url}/v1"
        figures: dict[str, Any] = {}
        torch = ("hf", f"pretrained={folder},dtype=float32", "--device", "cpu")
        reference = harness.run(",".join(TASKS), *torch)
        figures["transformers"] = reference.scores
        for name, (arguments, batch) in COMPLETIONS.items():
            arguments = f"{address}/completions,tokenizer_backend=huggingface,{arguments}"
            options = ("local-completions", arguments, "--batch_size", batch)
            figures[name] = compare(harness.run(",".join(TASKS), *options), reference)
        reference = harness.run("sums", *torch, "--apply_chat_template")
        figures["transformers, chat"] = reference.scores
        for name, arguments in CHATS.items():
            arguments = f"{address}/chat/completions,{arguments}"
            run = harness.run("sums", "local-chat-completions", arguments, "--apply_chat_template")
            figures[name] = compare(run, reference)
    console.result_json(figures)


if __name__ == "__main__":
    main()

"""Requests of all kinds and lengths, always the same ones."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from tests.support.load import WORDS

MAX_TURN_CHARACTERS = 7000
REMEMBERED = 8


class Requests:
    """Requests one after the other; some go on with an earlier conversation.

    Args:
        client: client of the server.

    Attributes:
        outcomes: how they ended.
    """

    def __init__(self, client: httpx.Client) -> None:
        self.outcomes: Counter[str] = Counter()
        self._client = client
        self._model = client.get("/v1/models").json()["data"][0]["id"]
        self._random = random.Random(1)
        self._conversations: list[list[dict[str, str]]] = []

    def send(self) -> None:
        """Send the next request, and read its answer or a part of it."""
        kinds: list[Callable[[], str]] = [
            *(self._chat, self._chat, self._chat, self._structured, self._tools, self._sampled),
            *(self._completion, self._response, self._message, self._ollama, self._refused),
        ]
        kind = self._random.choice(kinds)
        self.outcomes[f"{kind.__name__[1:]} {kind()}"] += 1

    def _text(self) -> str:
        (count,) = self._random.choices((5, 40, 200, 700), (5, 5, 3, 1))
        return " ".join(self._random.choices(WORDS, k=count))

    def _turns(self) -> list[dict[str, str]]:
        """Return a conversation: a new one, or one of the latest with a turn more."""
        before = []
        if self._conversations and self._random.random() < 0.4:
            before = self._random.choice(self._conversations)
        turns = [*before, {"role": "user", "content": self._text()}]
        long = sum(len(turn["content"]) for turn in turns) > MAX_TURN_CHARACTERS
        return turns[-1:] if long else turns

    def _tokens(self) -> int:
        return self._random.randint(1, 24)

    def _post(self, path: str, body: dict[str, Any]) -> str:
        if not body.get("stream"):
            return str(self._client.post(path, json=body).status_code)
        with self._client.stream("POST", path, json=body) as response:
            for _ in response.iter_lines():
                if self._random.random() < 0.02:
                    return "left"
        return str(response.status_code)

    def _chat(self, **fields: Any) -> str:
        turns = self._turns()
        body = {"messages": turns, "max_tokens": self._tokens(), **fields}
        if self._random.random() < 0.5:
            return self._post("/v1/chat/completions", {**body, "stream": True})
        response = self._client.post("/v1/chat/completions", json=body)
        if response.is_success:
            said = response.json()["choices"][0]["message"]["content"] or "-"
            self._conversations.append([*turns, {"role": "assistant", "content": said}])
            del self._conversations[:-REMEMBERED]
        return str(response.status_code)

    def _structured(self) -> str:
        key = f"k{self._random.randint(0, 50)}"
        schema = {
            "type": "object",
            "properties": {key: {"type": "integer"}, "b": {"enum": ["x", "y"]}},
            "required": ["b"],
        }
        form = {"name": "form", "schema": schema, "strict": False}
        return self._chat(response_format={"type": "json_schema", "json_schema": form})

    def _tools(self) -> str:
        place = {"type": "object", "properties": {"place": {"type": "string"}}}
        function = {"name": f"tool_{self._random.randint(0, 20)}", "parameters": place}
        choice = self._random.choice(("auto", "required"))
        return self._chat(tools=[{"type": "function", "function": function}], tool_choice=choice)

    def _sampled(self) -> str:
        options: list[dict[str, Any]] = [
            {"temperature": 1, "n": 2},
            {"temperature": 0.8, "top_k": 20, "repetition_penalty": 1.1},
            {"logprobs": True, "top_logprobs": 5},
            {"stop": ["the"]},
        ]
        return self._chat(**self._random.choice(options))

    def _completion(self) -> str:
        body = {"prompt": self._text(), "max_tokens": self._tokens()}
        more = self._random.choice(({}, {"num_beams": 2}, {"echo": True, "logprobs": 1}))
        return self._post("/v1/completions", {**body, **more})

    def _response(self) -> str:
        body = {"input": self._text(), "max_output_tokens": 24, "store": True}
        return self._post("/v1/responses", {**body, "stream": self._random.random() < 0.5})

    def _message(self) -> str:
        body = {"model": self._model, "messages": self._turns(), "max_tokens": self._tokens()}
        return self._post("/v1/messages", {**body, "stream": self._random.random() < 0.5})

    def _ollama(self) -> str:
        body = {"model": self._model, "messages": self._turns(), "options": {"num_predict": 8}}
        return self._post("/api/chat", {**body, "stream": self._random.random() < 0.5})

    def _refused(self) -> str:
        turns = self._random.choice(([], "x", [{"role": "user"}]))
        return self._post("/v1/chat/completions", {"messages": turns})

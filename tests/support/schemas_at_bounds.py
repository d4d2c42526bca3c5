"""Schemas whose keywords are at their bounds, asked of a real model through the API.

`python -m tests.support.schemas_at_bounds 2000` asks for so many with a tiny random model, which
tries all that a grammar lets in.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from random import Random
from typing import Any

from device_runtime.api.app import Api
from device_runtime.api.served_model import ServedModel
from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.inference.genai_engine import GenAIEngine
from device_runtime.status.report import RequestStats
from device_runtime.tools.dialect import Dialect
from tests.support import asgi, schemas, tiny_model
from tests.support.fakes import FakeGenerator, runtime_status
from tests.support.serving import chat_body

Json = Any
Schema = dict[str, Json]

QUANTIFIERS = ("{0}", "{0,0}", "{0,1}", "{1}", "{1,1}", "{1,2}", "{0,}", "{1,}", "?", "*", "+", "")
ATOMS = ("a", "[a-c]", "(ab|c)", "(ab)", r"\d", r"\W", "[äö]", "[^a]", ".", "日", r"\.", "(é|è)")
LOOKS = ("(?!a)", "(?=.)", "(?!.*aa)", "(?=.{1,3}$)", "(?![äö]$)")
ZOD_DATE = (
    r"(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|\d{4}-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-"
    r"(?:0[1-9]|1\d|2[0-8])))"
)
ZOD_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
ZOD = {
    "email": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@"
    r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
    "uuid": "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-"
    "[0-9a-fA-F]{12}|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$",
    "ipv4": rf"^(?:{ZOD_OCTET}\.){{3}}{ZOD_OCTET}$",
    "date": f"^{ZOD_DATE}$",
    "date-time": rf"^{ZOD_DATE}T(?:(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z))$",
    "duration": r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?"
    r"(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$",
}
"""What zod 4 writes beside a format; the pattern for e-mail is of its first releases."""

TEXTS = (
    "",
    "a",
    "ä",
    "ö",
    "é 日",
    "<|im_end|>",
    "<|im_start|>x",
    "<|endoftext|>",
    'q"\\',
    "\u2028",
)
NUMBERS = (0, 1, -1, 0.5, -0.5, 9, 10, 999999999, 10**9, 10**15 - 1, 0.000001, 1e-7, 2**53)
STEPS = (1, 2, 3, 5, 7, 10, 0.5, 0.25, 0.1, 0.01, 2.5, 0.000001)
NOTES: Schema = {"example": 1, "contentEncoding": "base64", "title": "it", "minLenght": 9}


class SchemasAtBounds:
    """Makes schemas; the same seed makes the same one.

    Attributes:
        draft7: tuples are written as in Draft 7.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.draft7 = seed % 3 == 0

    def make(self, depth: int = 2) -> Schema:
        """A schema that some value fits, mostly."""
        makers: list[Callable[[int], Schema]] = [
            self._string,
            self._string,
            self._number,
            self._number,
            self._listed,
        ]
        if depth:
            makers += [self._array, self._array, self._object, self._object, self._options]
        schema = self._random.choice(makers)(depth - 1)
        if self._chance(0.1):
            name = self._pick([*NOTES])
            schema[name] = NOTES[name]
        return schema

    def _pick(self, values: Any) -> Any:
        return self._random.choice(values)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _bounds(self, what: str, high: int = 2) -> Schema:
        least = self._random.randint(0, high)
        bounds = {f"min{what}": least, f"max{what}": self._random.randint(least, high)}
        return {word: count for word, count in bounds.items() if self._chance(0.8)}

    def _string(self, _: int) -> Schema:
        kind = self._random.random()
        if kind < 0.25:
            return {"type": "string", **self._bounds("Length")}
        if kind < 0.5:
            name = self._pick([*ZOD])
            schema: Schema = {"type": "string", "format": name}
            return schema | ({"pattern": ZOD[name]} if self._chance(0.7) else {})
        if kind < 0.55:
            return {"type": "string", "format": "a-format", "maxLength": 1}
        schema = {"type": "string", "pattern": f"^{self._pattern()}$"}
        if self._chance(0.3):
            schema["allOf"] = [{"pattern": f"^{self._pattern()}$"}]
        return schema | {"maxLength": self._pick((1, 2, 8))}

    def _pattern(self) -> str:
        look = self._pick(LOOKS) if self._chance(0.3) else ""
        count = self._random.randint(1, 3)
        return look + "".join(self._pick(ATOMS) + self._pick(QUANTIFIERS) for _ in range(count))

    def _number(self, _: int) -> Schema:
        low = self._pick(NUMBERS) * self._pick((1, -1))
        high = low + self._pick((0, 0, 1, 1, 0.5, 2, 10, 1e-6))
        below = self._pick(("minimum", "exclusiveMinimum"))
        above = self._pick(("maximum", "exclusiveMaximum"))
        schema: Schema = {"type": self._pick(("integer", "number")), below: low, above: high}
        if self._chance(0.4):
            del schema[self._pick((below, above))]
        if self._chance(0.4):
            schema["multipleOf"] = self._pick(STEPS)
        return schema

    def _listed(self, _: int) -> Schema:
        values = [*TEXTS, *NUMBERS, None, True, [], {}, ["ä"], {"ö": "<|im_end|>"}]
        if self._chance(0.5):
            return {"const": self._pick(values)}
        listed = self._random.sample(values, self._random.randint(1, 3))
        return {"enum": listed} | ({"type": "string"} if self._chance(0.2) else {})

    def _array(self, depth: int) -> Schema:
        schema: Schema = {"type": "array", **self._bounds("Items")}
        first = [self.make(depth) for _ in range(self._random.randint(1, 2))]
        rest = self._pick((False, True, self.make(depth)))
        if self._chance(0.4):
            tuple_, others = (
                ("items", "additionalItems") if self.draft7 else ("prefixItems", "items")
            )
            return schema | {tuple_: first} | ({others: rest} if self._chance(0.7) else {})
        return schema | {"items": first[0], "maxItems": schema.get("maxItems", 2)}

    def _object(self, depth: int) -> Schema:
        names = self._random.sample(("a", "ä", "<|im_end|>", "", "b c"), self._random.randint(0, 2))
        schema: Schema = {"type": "object", **self._bounds("Properties")}
        if names or self._chance(0.5):
            schema["properties"] = {name: self.make(depth) for name in names}
        if self._chance(0.5):
            schema["required"] = self._random.sample(names, self._random.randint(0, len(names)))
        if self._chance(0.6):
            schema["additionalProperties"] = self._pick((False, True, {"type": "null"}))
        if self._chance(0.2):
            schema["propertyNames"] = {"enum": [*names, "ö"]}
        return schema

    def _options(self, depth: int) -> Schema:
        options = [self.make(depth) for _ in range(self._random.randint(1, 2))]
        return {self._pick(("anyOf", "anyOf", "allOf", "oneOf")): options}


class EngineGenerator(FakeGenerator):
    """Answers with an engine in this process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._engine = GenAIEngine(folder, context_length=2048, threads=1)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        for chunk in self._engine.generate(request, lambda: False):
            yield chunk


class Asker:
    """Asks a model for values of schemas through the API, and checks them.

    Attributes:
        count: outcomes of the questions.
    """

    def __init__(self, folder: Path) -> None:
        stats = RequestStats()
        served = ServedModel(model="tiny", dialect=Dialect.of(""), max_tokens=64)
        self._app = Api(EngineGenerator(folder), stats, lambda: runtime_status(stats), served).app()
        self.count: Counter[str] = Counter()

    def ask(self, seed: int) -> None:
        """Ask for a value: in the response, as arguments of a strict tool, or of another."""
        source = SchemasAtBounds(seed)
        schema = source.make()
        ways: list[Callable[[Schema], Schema]] = [_response, _strict_tool, _loose_tool]
        way = ways[seed % len(ways)]
        body = chat_body(**way(schema), max_tokens=300, temperature=1, seed=seed, stop=['"', "a"])
        response = asgi.request(self._app, "POST", "/v1/chat/completions", json=body)
        if response.status_code == 400 and way is not _loose_tool:
            assert response.json()["error"]["code"] == "unsupported_schema", response.text
            self.count["refused"] += 1
            return
        assert response.status_code == 200, response.text
        ignored = response.headers.get("X-Edgepack-Ignored-Keywords", "")
        assert ("it.properties.more.uniqueItems" in ignored) == (way is _loose_tool)
        [choice] = response.json()["choices"]
        if choice["finish_reason"] == "length":
            self.count["length"] += 1
            return
        text = choice["message"]["content"]
        if way is _loose_tool and "," in ignored:
            # More than the keyword that was put there is not supported.
            self.count["loose"] += 1
            return
        if way is not _response:
            [call] = choice["message"]["tool_calls"]
            arguments = json.loads(call["function"]["arguments"])
            text = json.dumps(arguments["it"])
        schemas.check(schema, text, draft7=source.draft7)
        self.count["valid"] += 1


def _response(schema: Schema) -> Schema:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    return {"response_format": form}


def _strict_tool(schema: Schema, **properties: Schema) -> Schema:
    parameters = {
        "type": "object",
        "properties": {"it": schema, **properties},
        "required": ["it"],
        "additionalProperties": False,
    }
    function = {"name": "it", "parameters": parameters, "strict": not properties}
    tool = {"type": "function", "function": function}
    return {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}


def _loose_tool(schema: Schema) -> Schema:
    return _strict_tool(schema, more={"type": "array", "uniqueItems": True, "maxItems": 2})


def main(total: int) -> int:
    """Ask for so many schemas; print the outcomes."""
    with tempfile.TemporaryDirectory() as work:
        hf = tiny_model.make_hf(Path(work) / "hf")
        asker = Asker(tiny_model.make_onnx(hf, Path(work) / "onnx", Path(work) / "cache"))
        for seed in range(total):
            try:
                asker.ask(seed)
            except Exception as error:
                asker.count["wrong"] += 1
                print(f"seed {seed}: {error}\n{SchemasAtBounds(seed).make()}", file=sys.stderr)
    print(dict(asker.count))
    return 1 if asker.count["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

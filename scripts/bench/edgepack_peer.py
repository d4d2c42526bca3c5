"""edgepack's own engine as a contestant, as the service's worker runs it."""

from pathlib import Path

from device_runtime.inference.engine import GenerationRequest, TokenIds
from device_runtime.inference.genai_engine import GenAIEngine
from scripts.bench.protocol import Run, serve


class Edgepack:
    """The device's engine."""

    def load(self, path: str, context: int, threads: int) -> str:
        """Load an ONNX GenAI folder."""
        self._engine = GenAIEngine(Path(path), context_length=context, threads=threads)
        return ""

    def run(self, prompt: list[int], count: int) -> Run:
        """Answer a request; nothing of the prompt is in the prompt cache."""
        # The others compute all of a prompt.
        self._engine._cache.clear()
        request = GenerationRequest(
            prompt="", prompts=(TokenIds(tuple(prompt)),), max_tokens=count + 1
        )
        usage = [chunk.usage for chunk in self._engine.generate(request, lambda: False)][-1]
        assert usage is not None
        assert usage.cached_tokens == 0
        return Run(usage.first_token_s, usage.completion_tokens - 1, usage.decode_s)


if __name__ == "__main__":
    serve(Edgepack())

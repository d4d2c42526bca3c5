"""The model that a release serves, read from its files."""

from pathlib import Path

import msgspec

from device_runtime.bundle.embedding import Embedding
from device_runtime.bundle.manifest import EMBEDDING_FOLDER, MODEL_FOLDER, SPEECH_FOLDER
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.bundle.release import Release
from device_runtime.bundle.speech import Speech
from device_runtime.bundle.vision import Vision
from device_runtime.config.options import RuntimeConfig
from device_runtime.inference.engine import adapters
from device_runtime.tokenizer.files import (
    chat_templates,
    special_tokens,
    template_for,
)
from device_runtime.tools.dialect import Dialect


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a model that clients are told.

    Attributes:
        architecture: architecture as the source names it, `LlamaForCausalLM`.
        parameters: number of weights; 0 if not known.
        recipe: name of the recipe of its weights.
        license: SPDX expression; empty if not known.
        size_bytes: size of its files.
        digest: digest of its release.
        context_length: maximum length of prompt and answer together, tokens.
        template: its chat template, the one for tools if it has two.
    """

    architecture: str = ""
    parameters: int = 0
    recipe: str = ""
    license: str = ""
    size_bytes: int = 0
    digest: str = ""
    context_length: int = 0
    template: str = ""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that answers requests, and the limits of its answers.

    Attributes:
        model: name of the model.
        dialect: form of the model's tool calls, for conversations with tools.
        other_dialect: that of conversations without tools, where the model has another template for
            them; None where it has not.
        max_tokens: length of an answer if the request sets none, tokens.
        adapters: names of the model's adapters.
        max_messages: maximum number of messages in a conversation.
        reasoning: how the model thinks; None if it does not.
        system_prompt: prepended to conversations without a system turn; empty for none.
        card: the model's properties.
        embedding: the embedding model beside it; None without one.
        embedding_card: that model's properties.
        vision: how the model sees; None if it takes text alone.
        speech: the speech model beside it; None without one.
    """

    model: str
    dialect: Dialect
    max_tokens: int
    other_dialect: Dialect | None = None
    adapters: tuple[str, ...] = ()
    max_messages: int = 1000
    reasoning: Reasoning | None = None
    system_prompt: str = ""
    card: ModelCard = ModelCard()
    embedding: Embedding | None = None
    embedding_card: ModelCard = ModelCard()
    vision: Vision | None = None
    speech: Speech | None = None

    @classmethod
    def of(
        cls,
        model: str,
        folder: Path,
        *,
        max_tokens: int,
        max_messages: int,
        system_prompt: str,
        reasoning: Reasoning | None = None,
    ) -> "ServedModel":
        """Read a model's dialect and adapters from its folder; other arguments are attributes."""
        templates = chat_templates(folder)
        with_tools, without = (template_for(templates, tools=tools) for tools in (True, False))
        dialect = Dialect.of(with_tools, special=special_tokens(folder))
        return cls(
            model=model,
            dialect=dialect,
            other_dialect=None if with_tools == without else Dialect.of(without),
            adapters=tuple(adapters(folder)),
            max_tokens=max_tokens,
            max_messages=max_messages,
            system_prompt=system_prompt,
            card=ModelCard(template=with_tools),
            reasoning=reasoning,
        )

    @classmethod
    def of_release(cls, release: Release, config: RuntimeConfig) -> "ServedModel":
        """Describe the model of a release, as it is configured.

        Raises:
            ServiceError: the file with the system prompt cannot be read.
        """
        manifest = release.manifest
        served = cls.of(
            manifest.model.name,
            release.model_folder,
            max_tokens=config.max_tokens,
            max_messages=config.max_messages,
            system_prompt=config.system_prompt(),
            reasoning=release.manifest.reasoning,
        )
        card = ModelCard(
            architecture=manifest.model.architecture,
            parameters=manifest.model.parameters,
            recipe=manifest.quantization.recipe,
            license=manifest.model.license,
            size_bytes=_model_bytes(release, MODEL_FOLDER),
            digest=release.digest,
            context_length=manifest.context_length,
            template=served.card.template,
        )
        described, embedding_card = manifest.embedding, ModelCard()
        if described is not None and described.hidden_states:
            embedding_card = card
        elif described is not None:
            embedding_card = ModelCard(
                architecture=described.model.architecture,
                parameters=described.model.parameters,
                # Of these models, builds store all weights in half precision.
                recipe="fp16",
                license=described.model.license,
                size_bytes=_model_bytes(release, EMBEDDING_FOLDER),
                digest=release.digest,
                context_length=described.max_tokens,
            )
        return msgspec.structs.replace(
            served,
            card=card,
            embedding=described,
            embedding_card=embedding_card,
            vision=manifest.vision,
            speech=manifest.speech,
        )

    @property
    def dialect_without_tools(self) -> Dialect:
        """Form of earlier tool calls in a conversation without tools."""
        return self.other_dialect or self.dialect

    @property
    def can_stop_thinking(self) -> bool:
        """True if the model thinks, and can answer without."""
        return self.reasoning is not None and self.reasoning.off is not None

    @property
    def models(self) -> tuple[str, ...]:
        """All names that the field `model` of a request for an answer can have."""
        return (self.model, *(f"{self.model}:{adapter}" for adapter in self.adapters))

    @property
    def text_models(self) -> tuple[str, ...]:
        """All names of models that take text, that of the embedding model last."""
        return self.models if self.embedding is None else (*self.models, self.embedding.model.name)

    @property
    def all_models(self) -> tuple[str, ...]:
        """All names of models, that of the speech model last."""
        return (
            self.text_models if self.speech is None else (*self.text_models, self.speech.model.name)
        )


def _model_bytes(release: Release, folder: str) -> int:
    """Return the size of the model in a folder of a release, without those in folders below it."""
    others = {EMBEDDING_FOLDER, SPEECH_FOLDER} - {folder}
    return sum(
        record.size
        for record in release.manifest.records
        if record.component == "model"
        and record.path.startswith(f"{folder}/")
        and not record.path.startswith(tuple(f"{other}/" for other in others))
    )

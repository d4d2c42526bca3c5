"""Take the text model out of a checkpoint that also has vision or audio.

The result is the folder of an ordinary text model: every later step, and the device, handle it as
one. A job because only transformers knows the defaults of such a configuration.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from device_runtime.tokenizer.files import chat_templates
from packager.jobs.compare_tensors import CompareTensors, Tensors
from packager.jobs.job import Job, JobRefusedError, Work
from packager.weights import checkpoint, safetensors_file

PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "lm_head.": "lm_head.",
    "model.embed_tokens.": "model.embed_tokens.",
    "model.layers.": "model.layers.",
    "model.norm.": "model.norm.",
}
"""Prefixes of the text model's tensors, as publishers and transformers write them, and those of the
same tensors in a text model. Phi-3-vision has the tensors for images among those of the text."""

_SAME_TEXT_MODEL = {"qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Text models that are another model as long as no image comes: their rotary embeddings have three
positions a token, which are then equal."""

_OF_THE_WHOLE = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype")


def text_name(tensor: str) -> str | None:
    """Return a tensor's name in the text model; None if it does not belong to that."""
    for prefix, own in PREFIXES.items():
        if tensor.startswith(prefix):
            return own + tensor.removeprefix(prefix)
    return None


class ExtractText(Job[Tensors], frozen=True, kw_only=True):
    """Write the text model of a folder as a Hugging Face folder.

    The result lists differences between the tensors taken and those of the model, under the names
    of the text model.

    Attributes:
        source: Hugging Face folder of the whole model.
        copied: files to copy unchanged: tokenizer, chat template, model card.
    """

    source: Path
    copied: tuple[Path, ...]

    def run(self, work: Work) -> Tensors:
        """Write the folder.

        Raises:
            JobRefusedError: transformers has no text model for the configuration.
        """
        config = _text_config(_whole_config(self.source))
        (work.target / "config.json").write_text(json.dumps(config, indent=2))
        files = checkpoint.files(self.source)
        listed = (name for path in files for name in safetensors_file.tensors(path))
        names = {name: own for name in listed if (own := text_name(name))}
        safetensors_file.copy(files, work.target / "model.safetensors", names)
        for file in self.copied:
            shutil.copyfile(file, checkpoint.place(file, self.source, work.target))
        _take_template_of_processor(work.target)
        return CompareTensors(folder=work.target, trust_remote_code=False).run(work)


def _take_template_of_processor(folder: Path) -> None:
    """Give the tokenizer the chat template that is in the processor's own file, if it has none."""
    path = folder / "chat_template.json"
    if path.is_file() and not chat_templates(folder):
        template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="\n")


def _whole_config(folder: Path) -> Any:
    """Load the configuration of the whole model."""
    from transformers import AutoConfig, Phi3Config

    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if fields["model_type"] != "phi3_v":
        return AutoConfig.from_pretrained(folder)
    # The class for it comes with the model. It is that of Phi-3 with two fields more.
    for name in ("auto_map", "embd_layer", "img_processor", "model_type"):
        fields.pop(name, None)
    scaling = fields.get("rope_scaling")
    if scaling and scaling.get("type") == "su":  # what LongRoPE was called at first
        fields["rope_scaling"] = {**scaling, "type": "longrope"}
    return Phi3Config.from_dict(fields)


def _text_config(config: Any) -> dict[str, Any]:
    """Return the configuration of the text model, with all values, as config.json has it."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    text = config.get_text_config(decoder=True)
    fields = text.to_dict()
    for name in _OF_THE_WHOLE:
        if fields.get(name) is None and getattr(config, name, None) is not None:
            fields[name] = config.to_dict()[name]
    # The whole model decides: its head and embedding are those of the text model.
    fields["tie_word_embeddings"] = config.tie_word_embeddings
    model_type = _SAME_TEXT_MODEL.get(text.model_type, text.model_type)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if architecture is None:
        raise JobRefusedError(f"transformers has no text model for {text.model_type}")
    if model_type != text.model_type:
        known = CONFIG_MAPPING[model_type]().to_dict()
        fields = {name: value for name, value in fields.items() if name in known}
        theta = fields["rope_parameters"]["rope_theta"]
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    return {**fields, "model_type": model_type, "architectures": [architecture]}

"""What the model builder gets wrong of a model, put right.

Each correction was found by comparing a tiny model of a family with transformers, token by token
and logit by logit (`tests/integration/test_families.py`), and says what went wrong without it in
version 0.18. They change the builder's classes in the process that builds, nothing on disk.
"""

from __future__ import annotations

from typing import Any


def correct(builder: Any, config: Any) -> None:
    """Correct a model's configuration and the builder's classes.

    Args:
        builder: the module `onnxruntime_genai.models.builder`.
        config: the model's configuration as transformers read it; changed in place.
    """
    _rotary_parameters_by_layer_type(config)
    _windows_without_layer_types(config)
    _epsilon_of_another_name(config)
    _clipping_is_left_out(config)
    _vectors_in_full_precision(builder.Model)
    _rotary_frequencies_as_transformers(builder.Model, builder.LlamaModel)
    _local_layers_are_not_scaled(builder.Gemma3Model)
    _embedding_scale_is_exact(builder.GemmaModel)
    _layers_without_positions(builder.SmolLM3Model)
    _attention_keeps_its_cache(builder.Model)
    _norm_subtracts_the_mean(builder.OLMoModel)


def _rotary_parameters_by_layer_type(config: Any) -> None:
    """Gemma 3 has rotary parameters for each type of layer; the builder knows the older names."""
    parameters = getattr(config, "rope_parameters", None)
    if isinstance(parameters, dict) and "full_attention" in parameters:
        config.rope_local_base_freq = parameters["sliding_attention"]["rope_theta"]
        config.rope_parameters = parameters["full_attention"]


def _windows_without_layer_types(config: Any) -> None:
    """Mistral and Phi-3 have a window in every layer, and say so by not naming types of layers.

    The builder then made full attention, and told the runtime that the cache is as long as the
    window: wrong answers, or an error, for prompts longer than that. A window that the context
    cannot fill (Phi-3.5 has 262,144 of 131,072) is none.
    """
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "layer_types", None) is not None:
        return
    if window < config.max_position_embeddings:
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    else:
        config.sliding_window = None


def _epsilon_of_another_name(config: Any) -> None:
    """The builder reads `rms_norm_eps` alone, and takes 1e-6 for models that call it otherwise.

    OLMo does not say it at all: it has 1e-5.
    """
    if not hasattr(config, "rms_norm_eps"):
        for name in ("layer_norm_eps", "norm_eps"):
            if hasattr(config, name):
                config.rms_norm_eps = getattr(config, name)
    if config.model_type == "olmo":
        config.rms_norm_eps = 1e-5


def _clipping_is_left_out(config: Any) -> None:
    """Some OLMo models clip queries, keys and values; there is nothing to put that right here."""
    if getattr(config, "clip_qkv", None) is not None:
        raise NotImplementedError(
            "this model clips its queries and keys (clip_qkv), which the model builder leaves out"
        )


def _vectors_in_full_precision(model: Any) -> None:
    """Gemma's norms multiply by 1 + weight, which the builder added in the file's 16 bits."""
    load_weights = model.load_weights

    def loaded(self: Any, input_path: str) -> Any:
        weights = load_weights(self, input_path)
        for parameter in weights.parameters():
            if parameter.ndim == 1:
                parameter.data = parameter.data.float()
        return weights

    model.load_weights = loaded


def _rotary_frequencies_as_transformers(model: Any, llama: Any) -> None:
    """Take scaled rotary frequencies from transformers.

    The builder ignores all kinds of scaling but one for the Llama architecture, and its YaRN needs
    values that models leave to their defaults, and rounds the borders of the ramp otherwise.
    """
    init = model.make_rope_init

    def make_rope_init(self: Any, config: Any) -> None:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        kind = config.rope_parameters["rope_type"]
        if kind in ("linear", "yarn", "llama3"):
            frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
            self.rope_attrs["rescale_inv_freq"] = frequencies
            self.rope_attrs["mscale"] = scaling
        elif kind == "dynamic":
            pass  # Nothing is scaled within the context that the model has.
        else:
            init(self, config)

    model.make_rope_init = make_rope_init
    model.make_inv_freq_rescaled = lambda self, _: self.rope_attrs["rescale_inv_freq"]
    llama.make_rope_init = make_rope_init


def _local_layers_are_not_scaled(gemma3: Any) -> None:
    """Gemma 3 scales the positions of its global layers only; the builder scaled all."""
    make = gemma3.make_rotary_embedding_caches_from_scratch

    def make_caches(self: Any) -> Any:
        if self.rope_attrs["theta"] == self.rope_local_theta:
            self.rope_attrs.pop("rescale_inv_freq", None)
        return make(self)

    gemma3.make_rotary_embedding_caches_from_scratch = make_caches


def _embedding_scale_is_exact(gemma: Any) -> None:
    """Gemma's embeddings are multiplied by a root that the builder rounds to two decimals."""
    make = gemma.make_embedding

    def make_embedding(self: Any, embedding: Any) -> None:
        self.embed_attrs["scale"] = float(self.hidden_size**0.5)
        make(self, embedding)

    gemma.make_embedding = make_embedding


def _layers_without_positions(smollm3: Any) -> None:
    """SmolLM3 has layers without rotary embeddings; the builder gave them separate ones."""
    make = smollm3.__mro__[1].make_attention

    def make_attention(self: Any, layer_id: int, *arguments: Any, **options: Any) -> None:
        attributes, before = self.attention_attrs, dict(self.attention_attrs)
        rope = bool(self.no_rope_layers[layer_id])
        attributes["rope"] = rope
        attributes["use_rope_in_attn"] = rope and before["use_rope_in_attn"]
        make(self, layer_id, *arguments, **options)
        attributes["rope"] = before["rope"]
        attributes["use_rope_in_attn"] = before["use_rope_in_attn"]

    smollm3.make_attention = make_attention


def _attention_keeps_its_cache(model: Any) -> None:
    """For fp32 on a GPU the builder joins all of the attention in one operator, and then leaves the
    cache, which the graph promises, unmade: no such graph loads. The separate operators do."""
    model.is_packed_attn_supported = lambda self: False


def _norm_subtracts_the_mean(olmo: Any) -> None:
    """OLMo has layer norms without weights; the builder made norms that only divide."""
    make = olmo.make_layernorm

    def make_layernorm(
        self: Any, layer_id: int, layernorm: Any, skip: bool, simple: bool, location: str
    ) -> None:
        make(self, layer_id, layernorm, skip, False, location)

    olmo.make_layernorm = make_layernorm

"""Corrections of model builder bugs.

Each was found by comparing a tiny model of a family with transformers, token by token and logit by
logit (`tests/integration/test_families.py`), and documents the fault in version 0.18. They patch
the builder's classes in the process that builds, and nothing on disk.
"""

from __future__ import annotations

from typing import Any


def correct(builder: Any, config: Any) -> None:
    """Correct a model's configuration and the builder's classes.

    Args:
        builder: the module `onnxruntime_genai.models.builder`.
        config: the model's configuration as transformers read it; changed in place.
    """
    _text_models_under_the_builders_names(builder, config)
    _positions_without_their_own_scale(config)
    _heads_by_layer_type(config)
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


BUILT_AS = {
    "Gemma4UnifiedForCausalLM": "Gemma4UnifiedForConditionalGeneration",
    "Ministral3ForCausalLM": "MistralForCausalLM",
    "Qwen3_5ForCausalLM": "Qwen3_5ForConditionalGeneration",
}
"""Text models that the builder knows under another name."""


def _text_models_under_the_builders_names(builder: Any, config: Any) -> None:
    """Name text models as the builder does, and load them as what they are.

    The builder knows them only as part of a model that also sees, and loads that whole. The layers
    of Qwen3.5 that propose several tokens at once are not built: nothing here would use them.
    """
    architecture = config.architectures[0]
    if architecture not in BUILT_AS:
        return
    config.architectures = [BUILT_AS[architecture]]
    config.mtp_num_hidden_layers = 0

    def load_weights(self: Any, _input_path: str) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.model_name_or_path)

    builder.Model.load_weights = builder.Gemma4Model.load_weights = load_weights


def _positions_without_their_own_scale(config: Any) -> None:
    """Limit Ministral 3 to the context up to which its queries are not scaled by their position.

    The builder does not know that scale, which is 1 up to there.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("llama_4_scaling_beta"):
        original = parameters["original_max_position_embeddings"]
        config.max_position_embeddings = min(config.max_position_embeddings, original)


def _heads_by_layer_type(config: Any) -> None:
    """Copy the head sizes of Gemma 4's global layers to the names that the builder reads."""
    if config.model_type != "gemma4_unified_text":
        return
    if config.num_kv_shared_layers or config.use_double_wide_mlp:
        raise NotImplementedError(
            "layers of this model share their caches or have joined projections, which the model "
            "builder does not support"
        )
    whole = config.layer_types.index("full_attention")
    of_layer = config.per_layer_config[whole]
    config.allow_global_per_layer_attribute_access = True
    config.global_head_dim = of_layer.head_dim
    config.num_global_key_value_heads = of_layer.num_key_value_heads


def _rotary_parameters_by_layer_type(config: Any) -> None:
    """Copy Gemma 3's RoPE parameters by layer type to the older names that the builder reads."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if config.model_type == "gemma3_text" and "full_attention" in parameters:
        config.rope_local_base_freq = parameters["sliding_attention"]["rope_theta"]
        config.rope_parameters = parameters["full_attention"]


def _windows_without_layer_types(config: Any) -> None:
    """List the layer types of Mistral and Phi-3, which have a sliding window in every layer.

    Without the list the builder created full attention but limited the runtime's cache to the
    window: wrong answers, or an error, for longer prompts. A window beyond the context length
    (Phi-3.5: 262,144 of 131,072) has no effect and is removed.
    """
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "layer_types", None) is not None:
        return
    if window < config.max_position_embeddings:
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    else:
        config.sliding_window = None


def _epsilon_of_another_name(config: Any) -> None:
    """Copy the epsilon of norms to `rms_norm_eps`, the only name that the builder reads.

    Otherwise it assumes 1e-6. OLMo's configuration lacks the value: it is 1e-5.
    """
    if not hasattr(config, "rms_norm_eps"):
        for name in ("layer_norm_eps", "norm_eps"):
            if hasattr(config, name):
                config.rms_norm_eps = getattr(config, name)
    if config.model_type == "olmo":
        config.rms_norm_eps = 1e-5


def _clipping_is_left_out(config: Any) -> None:
    """Refuse OLMo models that clip queries, keys and values: there is no correction for that."""
    if getattr(config, "clip_qkv", None) is not None:
        raise NotImplementedError(
            "this model clips queries and keys (clip_qkv), which the model builder does not support"
        )


def _vectors_in_full_precision(model: Any) -> None:
    """Load vectors in fp32: the builder added 1 to the weights of Gemma's norms in bfloat16."""
    load_weights = model.load_weights

    def load_in_full_precision(self: Any, input_path: str) -> Any:
        weights = load_weights(self, input_path)
        for parameter in weights.parameters():
            if parameter.ndim == 1:
                parameter.data = parameter.data.float()
        return weights

    model.load_weights = load_in_full_precision


def _rotary_frequencies_as_transformers(model: Any, llama: Any) -> None:
    """Compute scaled rotary frequencies with transformers.

    For the Llama architecture the builder ignores all RoPE types but one; its YaRN requires values
    that models leave to their defaults, and rounds the bounds of the ramp differently.
    """
    init = model.make_rope_init

    def make_rope_init(self: Any, config: Any) -> None:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        rope_type = config.rope_parameters["rope_type"]
        if rope_type in ("linear", "yarn", "llama3"):
            frequencies, scaling = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu")
            self.rope_attrs["rescale_inv_freq"] = frequencies
            self.rope_attrs["mscale"] = scaling
        elif rope_type == "dynamic":
            pass  # Within the model's context length nothing is scaled.
        else:
            init(self, config)

    model.make_rope_init = make_rope_init
    model.make_inv_freq_rescaled = lambda self, _: self.rope_attrs["rescale_inv_freq"]
    llama.make_rope_init = make_rope_init


def _local_layers_are_not_scaled(gemma3: Any) -> None:
    """Scale the positions of Gemma 3's global layers only; the builder scaled all layers."""
    make = gemma3.make_rotary_embedding_caches_from_scratch

    def make_caches(self: Any) -> Any:
        if self.rope_attrs["theta"] == self.rope_local_theta:
            self.rope_attrs.pop("rescale_inv_freq", None)
        return make(self)

    gemma3.make_rotary_embedding_caches_from_scratch = make_caches


def _embedding_scale_is_exact(gemma: Any) -> None:
    """Set Gemma's exact embedding scale, a square root that the builder rounds to two decimals."""
    make = gemma.make_embedding

    def make_embedding(self: Any, embedding: Any) -> None:
        self.embed_attrs["scale"] = float(self.hidden_size**0.5)
        make(self, embedding)

    gemma.make_embedding = make_embedding


def _layers_without_positions(smollm3: Any) -> None:
    """Omit rotary embeddings in SmolLM3's layers without them; the builder added separate ones."""
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
    """Use separate attention operators for fp32 on a GPU.

    The builder fuses them into an operator without the KV cache that the graph declares, and the
    graph does not load.
    """
    model.is_packed_attn_supported = lambda self: False


def _norm_subtracts_the_mean(olmo: Any) -> None:
    """Build OLMo's norms as layer norms, without weights; the builder created RMS norms."""
    make = olmo.make_layernorm

    def make_layernorm(
        self: Any, layer_id: int, layernorm: Any, skip: bool, simple: bool, location: str
    ) -> None:
        make(self, layer_id, layernorm, skip, False, location)

    olmo.make_layernorm = make_layernorm

"""Tiny configurations of every backbone of keras-hub, as data: of text.

A backbone that is not here appears in the table of `model_sweep.py` as not
tried.  `Part` is a model or layer that a configuration is made with; a name
with dots is looked up below `keras_hub.src.models`.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Part(NamedTuple):
    """What another model is made with: a class, and its arguments."""

    name: str
    arguments: dict[str, Any]


VOCABULARY, TOKENS, WIDTH, HIDDEN, HEADS, IMAGE = 32, 8, 32, 64, 2, 32
PICTURE = (IMAGE, IMAGE, 3)

WIDE = {"hidden_dim": WIDTH, "intermediate_dim": HIDDEN}
STACK = {"num_layers": 1, "num_heads": HEADS, **WIDE}
TEXT = {"vocabulary_size": VOCABULARY, **STACK}
SHORT = {**TEXT, "max_sequence_length": TOKENS}
QUIET = {**SHORT, "dropout": 0.0}
GROUPED = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 1,
    "num_query_heads": HEADS,
    "num_key_value_heads": 1,
    **WIDE,
}
HEADED = {**GROUPED, "head_dim": 16}
EXPERTS = {"num_experts": 4, "top_k": 2}
MOE = {**GROUPED, **EXPERTS, "moe_intermediate_dim": 16}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
SMOL = {
    "vocabulary_size": VOCABULARY,
    **WIDE,
    "num_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True],
    "layer_types": ["attention"],
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
SIDE = {
    "hidden_dim": WIDTH,
    "intermediate_dim": HIDDEN,
    "num_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "layer_types": ["full_attention"],
}
T5GEMMA = {
    "vocabulary_size": VOCABULARY,
    **{f"encoder_{name}": value for name, value in SIDE.items()},
    **{f"decoder_{name}": value for name, value in SIDE.items()},
    "cross_attention_hidden_size": WIDTH,
}
VIEW = {"image_shape": PICTURE, **STACK}
TEXT_TOWER = {**SHORT, "embedding_dim": WIDTH}
IMAGE_TOWER = {**VIEW, "patch_size": 16}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 32, 32, 64],
    "stackwise_num_blocks": [1, 1, 1, 1],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}
HGNET = {
    "stem_channels": [3, 8, 8],
    "stackwise_stage_filters": [[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3]],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, True],
    "depths": [1, 1],
    "hidden_sizes": [16, 32],
    "embedding_size": 8,
    "use_learnable_affine_block": True,
    "hidden_act": "relu",
    "out_features": ["stage1", "stage2"],
}
MIT = {
    "layerwise_depths": [1, 1],
    "num_layers": 2,
    "hidden_dims": [16, 32],
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [2, 1],
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    "max_drop_path_rate": 0.0,
    "image_shape": PICTURE,
}
DINOV2 = {
    **VIEW,
    "patch_size": 8,
    "num_layers": 2,
    "position_embedding_shape": PICTURE,
}
VAE = {
    "encoder_num_filters": [32, 32, 32, 32],
    "encoder_num_blocks": [1, 1, 1, 1],
    "decoder_num_filters": [32, 32, 32, 32],
    "decoder_num_blocks": [1, 1, 1, 1],
    "sampler_method": "mode",
}
CLIP_OF_STABLE = {**TEXT_TOWER, "intermediate_output_index": -1}
SMALL = {
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "num_layers": 1,
    "num_heads": 2,
}
VIT = {
    "image_shape": PICTURE,
    "patch_size": 16,
    "num_layers": 1,
    "num_heads": HEADS,
    "hidden_dim": WIDTH,
    "mlp_dim": HIDDEN,
}
DET = {
    "image_shape": PICTURE,
    "patch_size": 4,
    "hidden_size": WIDTH,
    "num_layers": 1,
    "global_attention_layer_indices": [0],
    "intermediate_dim": HIDDEN,
    "num_heads": HEADS,
    "num_output_channels": 16,
    "window_size": 2,
}

TEXTS: dict[str, dict[str, Any]] = {
    "AlbertBackbone": {**QUIET, "embedding_dim": 16},
    "BartBackbone": QUIET,
    "BertBackbone": QUIET,
    "BloomBackbone": TEXT,
    "DebertaV3Backbone": {**QUIET, "bucket_size": 4},
    "DistilBertBackbone": QUIET,
    "ESMBackbone": {**TEXT, "dropout": 0.0},
    "EdRecBackbone": {
        "vocab_size": VOCABULARY,
        "num_layers_enc": 1,
        "num_layers_dec": 1,
        "num_heads": HEADS,
        **WIDE,
    },
    "ElectraBackbone": {
        **{k: v for k, v in QUIET.items() if k != "vocabulary_size"},
        "vocab_size": VOCABULARY,
        "embedding_dim": 16,
    },
    "FNetBackbone": {k: v for k, v in QUIET.items() if k != "num_heads"},
    "FalconBackbone": {
        **{k: v for k, v in TEXT.items() if k != "num_heads"},
        "num_attention_heads": HEADS,
    },
    "GPT2Backbone": QUIET,
    "GPTNeoXBackbone": SHORT,
    "GemmaBackbone": HEADED,
    "GptOssBackbone": {**GROUPED, **EXPERTS, "sliding_window": 4},
    "Llama3Backbone": GROUPED,
    "LlamaBackbone": GROUPED,
    "MistralBackbone": {**GROUPED, "sliding_window": 4},
    "MixtralBackbone": {**GROUPED, **EXPERTS, "sliding_window": 4},
    "OPTBackbone": QUIET,
    "Phi3Backbone": GROUPED,
    "QwenBackbone": GROUPED,
    "QwenMoeBackbone": {**MOE, "shared_expert_intermediate_dim": HIDDEN},
    "Qwen3Backbone": HEADED,
    "Qwen3MoeBackbone": {**MOE, "head_dim": 16},
    "Qwen3_5Backbone": {**HEADED, **LINEAR, "num_layers": 2},
    "Qwen3_5MoeBackbone": {
        **{k: v for k, v in MOE.items() if k != "intermediate_dim"},
        **LINEAR,
        "num_layers": 2,
        "head_dim": 16,
        "shared_expert_intermediate_size": 16,
    },
    "RWKV7Backbone": {
        "vocabulary_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_layers": 1,
        "head_size": 16,
        "intermediate_dim": HIDDEN,
        "gate_lora": 16,
        "mv_lora": 16,
        "aaa_lora": 16,
        "decay_lora": 16,
    },
    "RobertaBackbone": QUIET,
    "RoformerV2Backbone": {**TEXT, "head_size": 16, "dropout": 0.0},
    "SmolLM3Backbone": SMOL,
    "T5Backbone": {**TEXT, "dropout": 0.0},
    "T5GemmaBackbone": T5GEMMA,
    "T5Gemma2Backbone": T5GEMMA,
    "XLMRobertaBackbone": QUIET,
    "XLNetBackbone": TEXT,
}

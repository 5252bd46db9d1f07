"""Small models of other people's libraries, with random weights and data.

Each function returns a model, its inputs and its targets.
"""

from __future__ import annotations

import functools

import keras
import keras_hub
import keras_rs
import numpy as np

TOKENS, WIDTH, HIDDEN, HEADS, IMAGE = 8, 32, 64, 2, 16
SIZES = {"num_heads": HEADS, "hidden_dim": WIDTH, "num_layers": 1}
TEXT = {**SIZES, "vocabulary_size": 32, "intermediate_dim": HIDDEN}


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def text(**more):
    inputs = {
        "token_ids": random().integers(1, 32, [4, TOKENS]),
        "padding_mask": np.ones([4, TOKENS], "int32"),
        **more,
    }
    inputs["padding_mask"][0, 5:] = 0
    return inputs


def images(size=IMAGE):
    return random().random([4, size, size, 3], "float32")


def bert():
    backbone = keras_hub.models.BertBackbone(
        **TEXT, max_sequence_length=TOKENS, dropout=0.0
    )
    model = keras_hub.models.BertTextClassifier(
        backbone, num_classes=3, dropout=0.0
    )
    segments = np.zeros([4, TOKENS], "int32")
    return model, text(segment_ids=segments), np.arange(4) % 3


def causal_lm(backbone, task):
    inputs = text()
    return task(backbone), inputs, inputs["token_ids"]


def gpt2():
    backbone = keras_hub.models.GPT2Backbone(
        **TEXT, max_sequence_length=TOKENS, dropout=0.0
    )
    return causal_lm(backbone, keras_hub.models.GPT2CausalLM)


def grouped():
    queries = {"num_query_heads": HEADS, "num_key_value_heads": 1}
    return queries | {k: v for k, v in TEXT.items() if k != "num_heads"}


def llama():
    backbone = keras_hub.models.LlamaBackbone(**grouped())
    return causal_lm(backbone, keras_hub.models.LlamaCausalLM)


def gemma():
    backbone = keras_hub.models.GemmaBackbone(
        **grouped(), head_dim=WIDTH // HEADS
    )
    return causal_lm(backbone, keras_hub.models.GemmaCausalLM)


def vit():
    backbone = keras_hub.models.ViTBackbone(
        [IMAGE, IMAGE, 3], 8, mlp_dim=HIDDEN, **SIZES
    )
    model = keras_hub.models.ViTImageClassifier(backbone, num_classes=3)
    return model, images(), np.arange(4) % 3


def resnet():
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=[IMAGE, IMAGE, 3],
    )
    model = keras_hub.models.ResNetImageClassifier(backbone, num_classes=3)
    return model, images(), np.arange(4) % 3


def ranking():
    """A DLRM: two embeddings, their products with one another, crosses."""
    dense = keras.Input([6])
    ids = [keras.Input([], dtype="int32") for _ in range(2)]
    found = [keras.layers.Embedding(8, 16)(each) for each in ids]
    x = keras.layers.Dense(16, "relu")(dense)
    pairs = keras_rs.layers.DotInteraction()([x, *found])
    x = start = keras.layers.Concatenate()([x, pairs])
    x = keras_rs.layers.FeatureCross(projection_dim=16)(start, x)
    x = keras_rs.layers.FeatureCross()(start, x)
    model = keras.Model([dense, *ids], keras.layers.Dense(3)(x), name="dlrm")
    inputs = [random().random([4, 6], "float32")]
    inputs += [random().integers(0, 8, [4]) for _ in ids]
    return model, inputs, np.arange(4) % 3


def xlnet():
    """Its attention is a MultiHeadAttention that is called otherwise."""
    return keras_hub.models.XLNetBackbone(**TEXT, dropout=0.0)


def vitdet():
    """Its layers are built for shapes that it makes up."""
    sizes = {"hidden_size": WIDTH, "num_heads": HEADS, "num_layers": 2}
    return keras_hub.models.ViTDetBackbone(
        **sizes,
        intermediate_dim=HIDDEN,
        global_attention_layer_indices=[1],
        image_shape=(64, 64, 3),
        patch_size=8,
        num_output_channels=16,
        window_size=2,
    )


def mixtral():
    """The kernels of its experts are in one weight."""
    return keras_hub.models.MixtralBackbone(**grouped(), num_experts=4, top_k=2)


def unbuilt():
    """Layers that make all of theirs when they are built."""
    layers = keras_hub.layers
    embedding = layers.TokenAndPositionEmbedding(32, TOKENS, WIDTH)
    model = keras.Sequential(
        [
            embedding,
            layers.TransformerEncoder(HIDDEN, HEADS),
            layers.TransformerDecoder(HIDDEN, HEADS),
            keras.layers.Dense(32),
        ],
        name="unbuilt",
    )
    tokens = random().integers(1, 32, [4, TOKENS])
    return model, tokens, tokens


APPLICATIONS = {  # the last layer of the first blocks
    "ResNet50": "conv2_block1_out",
    "MobileNetV2": "block_2_add",
    "EfficientNetB0": "block2a_project_bn",
}


@functools.cache
def application(name):
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(32, 32, 3), classes=4)


def first_blocks(name):
    whole = application(name)
    first = whole.get_layer(APPLICATIONS[name]).output
    first = keras.models.clone_model(keras.Model(whole.input, first))
    x = keras.layers.GlobalAveragePooling2D()(first.output)
    outputs = keras.layers.Dense(3, name="logits")(x)
    model = keras.Model(first.input, outputs, name=name.lower())
    return model, images(32), np.arange(4) % 3


MODELS = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "gemma": gemma,
    "vit": vit,
    "resnet": resnet,
    "ranking": ranking,
    **{name: lambda name=name: first_blocks(name) for name in APPLICATIONS},
}

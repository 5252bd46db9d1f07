"""Reports by what a model's layers are really called on."""

from __future__ import annotations

import json
import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfmp
from tfmp.analysis import subjects
from tfmp.conversion import tracing
from tfmp.conversion.sizes import Sizes


@keras.saving.register_keras_serializable("tests")
class OneInput(layers.MultiHeadAttention):
    """Attention that is called otherwise, with an output of its own."""

    def build(self, shape):
        split = (None, self.num_heads, self.key_dim)
        self.parts = [
            layers.EinsumDense("btd,dnh->btnh", split, name=name)
            for name in ("query", "key", "value")
        ]
        for part in self.parts:
            part.build(shape)
        self.last = layers.EinsumDense(
            "btnh,hnd->btd", (None, shape[-1]), name="attention_output"
        )
        self.last.build((*shape[:2], *split[1:]))

    def call(self, x):
        query, key, value = (part(x) for part in self.parts)
        scores = ops.softmax(ops.einsum("btnd,bsnd->bnts", query, key))
        return self.last(ops.einsum("bnts,bsnd->btnd", scores, value))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class MadeUp(layers.Layer):
    """Builds what is in it for shapes that it is never called on."""

    def build(self, shape):
        self.narrow, self.wide = layers.Dense(16), layers.Dense(16)
        self.narrow.build((1, 16))
        self.wide.build((None, None, None, None, 16))

    def call(self, x):
        return self.wide(self.narrow(x[:, 1:]))


class Experts(layers.Layer):
    """A product for each expert, whose kernels are in one weight."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, shape[-1], 8), name="kernel")

    def call(self, x):
        return ops.sum(ops.einsum("bth,ehm->ebtm", x, self.kernel), axis=0)


class Stateful(layers.Layer):
    """Changes whatever a layer can change when it is called."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False)
        self.seen = None
        self.cache, self.kept, self.names = {"all": []}, [], set()
        self.drop = layers.Dropout(0.5, seed=1)
        self.dense = layers.Dense(8)
        self.dense.build(shape)

    def call(self, x):
        self.count.assign_add(1.0)
        self.seen = x
        self.cache["all"].append(x)
        self.cache[len(self.kept)] = x
        self.kept.append(x)
        self.names.add(id(x))
        self.add_loss(ops.sum(x))
        noise = keras.random.normal((1,)) + random.random()
        return self.drop(self.dense(x), training=True) + noise


class Breaks(layers.Layer):
    def build(self, shape):
        self.dense = layers.Dense(8, name="dense")
        self.dense.build(shape)

    def call(self, x):
        if x.shape[1] not in (None, 4):
            raise RuntimeError("only four will do")
        return self.dense(x)


def model_of(*inside, shape=(None, 16)):
    return keras.Sequential([keras.Input(shape), *inside], name="net")


def products(report):
    return {row.path.split("/")[-1]: row.products for row in report.rows}


def text_of(report):
    """Looks at all that a report says."""
    assert json.dumps(report.to_dict())
    tfmp.summary(report.model, print_fn=str, expand_nested=True)
    return str(report)


@pytest.mark.parametrize("options", [{}, {"filter": "all"}])
def test_attention_that_is_called_otherwise(options):
    model = model_of(OneInput(2, 8, name="own"))
    options = options or {"filter": "auto", "target": "h200"}
    report = tfmp.convert(model, batch_size=2, length=6, **options)
    found = products(report)
    assert found["own"] == ("4 of 6 x 8 x 6", "4 of 6 x 6 x 8")
    assert found["attention_output"] == ("12 x 16 x 16",)
    assert "all products of one symbolic call" in text_of(report)
    # Of the layer alone, which is not in a model.
    alone = OneInput(2, 8)
    alone.build((2, 6, 16))
    assert products(tfmp.ConversionReport(alone))["query"] == ("12 x 16 x 16",)
    assert subjects.find(model, Sizes(2, 6))


def test_shapes_that_are_made_up():
    report = tfmp.convert(
        model_of(MadeUp(), shape=(9, 16)),
        filter="auto",
        target="h200",
        batch_size=8,
    )
    assert set(products(report).values()) == {("64 x 16 x 16",)}
    assert "64 x 16 x 16" in text_of(report)
    assert {row.sizes for row in report.rows} == {"call"}


def test_what_pays_is_chosen_by_real_sizes():
    class Large(MadeUp):
        def build(self, shape):
            self.narrow, self.wide = layers.Dense(4096), layers.Dense(4096)
            self.narrow.build((1, 4096))
            self.wide.build((None, None, None, 4096))

    def precisions(rows):
        with keras.device("cpu"):
            model = model_of(Large(), shape=(rows + 1, 4096))
        report = tfmp.convert(model, target="h200", batch_size=1, length=64)
        return [row.precision for row in report.rows]

    assert precisions(8192) == ["float8"] * 2
    assert precisions(16) == ["bfloat16"] * 2


def test_kernels_of_experts_are_counted_and_are_not_float8():
    model = model_of(layers.Dense(16, name="dense"), Experts(name="experts"))
    report = tfmp.convert(model, filter="all", batch_size=2, length=8)
    dense, experts = report.rows
    assert experts.flops == 2 * 16 * 16 * (4 * 8)
    assert experts.float8 == () and "not in FP8" in experts.reason
    assert report.float8_share == dense.flops / (dense.flops + experts.flops)
    assert "of the counted FLOPs" in text_of(report)
    assert report.not_counted == ""


def test_what_functional_models_multiply_themselves():
    x = keras.Input((8, 16))
    y = ops.matmul(layers.Dense(16)(x), ops.transpose(x, (0, 2, 1)))
    model = keras.Model(x, y, name="net")
    report = tfmp.ConversionReport(model, sizes=Sizes(2))
    assert products(report)["net"] == ("2 of 8 x 16 x 8",)


def test_loops():
    """A layer in a loop has its products once for each time step."""
    model = model_of(
        layers.TimeDistributed(layers.Dense(8, name="each")),
        layers.RNN(layers.LSTMCell(4, name="cell"), return_sequences=True),
        layers.LSTM(4, name="lstm"),
        shape=(6, 16),
    )
    rows = {
        row.path.split("/")[-1]: row
        for row in tfmp.ConversionReport(model, sizes=Sizes(2)).rows
    }
    assert (rows["each"].products, rows["each"].calls) == (("2 x 16 x 8",), 6)
    assert rows["cell"].products == ("2 x 8 x 16", "2 x 4 x 16")
    assert rows["cell"].calls == 6
    assert rows["lstm"].flops == rows["cell"].flops * (4 + 4) / (8 + 4)
    assert rows["lstm_cell"].products == ()


def test_calls_of_different_lengths():
    dense = layers.Dense(8)
    x, y = keras.Input((4, 16)), keras.Input((6, 16))
    model = keras.Model([x, y], [dense(x), dense(y), dense(y)])
    (row,) = tfmp.ConversionReport(model, sizes=Sizes(2)).rows
    assert sorted(row.products) == ["12 x 16 x 8"] * 2 + ["8 x 16 x 8"]
    assert (row.calls, row.flops) == (1, 2 * 32 * 16 * 8)


def test_a_layer_that_is_not_called():
    class Unused(MadeUp):
        def call(self, x):
            return self.narrow(x)

    model = model_of(Unused())
    report = tfmp.convert(model, filter="auto", target="h200")
    _, wide = report.rows
    assert wide.products == () and "does not call it" in wide.reason


def test_inputs_give_the_sizes():
    model = model_of(layers.Dense(8))
    given = np.ones((3, 5, 16), "float32")
    report = tfmp.convert(model, filter="all", inputs=given)
    assert report.rows[0].products == ("15 x 16 x 8",)
    assert "call on float32 (3, 5, 16)" in report.counted
    assert "where the model leaves them open" not in report.counted
    with pytest.raises(TypeError, match="`inputs` must be arrays"):
        tfmp.convert(model, inputs="text")


def test_where_no_call_is_possible():
    model = model_of(Breaks())
    report = tfmp.convert(model, filter="all", batch_size=2, length=8)
    assert products(report)["dense"] == ("16 x 16 x 8",)
    assert {row.sizes for row in report.rows} == {"build"}
    text = text_of(report)
    assert "only four will do" in text and "may be made up" in text
    assert report.not_counted == "the code of Breaks"
    four = np.ones((2, 4, 16), "float32")
    report = tfmp.ConversionReport(model, inputs=four)
    assert products(report)["dense"] == ("8 x 16 x 8",)
    assert report.not_counted == ""


def test_nothing_changes():
    keras.utils.set_random_seed(1)
    layer = Stateful()
    model = model_of(layer, layers.BatchNormalization())
    model(np.ones((2, 3, 16), "float32"), training=True)
    below = list(model._flatten_layers())
    held = [dict(layer.cache), list(layer.kept), set(layer.names)]
    held[0]["all"] = list(layer.cache["all"])
    before = [v.numpy() for v in model.variables]
    losses, attributes = list(model.losses), [dict(vars(x)) for x in below]
    state = random.getstate()
    tfmp.convert(model, filter="auto", target="h200")
    tfmp.revert(model)
    assert tracing.trace(model, Sizes()).failure == ""
    assert list(map(id, layer.kept)) == list(map(id, held[1]))
    assert layer.cache.keys() == held[0].keys() and layer.names == held[2]
    assert len(layer.cache["all"]) == len(held[0]["all"])
    for one, other in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, other.numpy())
    assert random.getstate() == state
    assert [id(x) for x in model.losses] == [id(x) for x in losses]
    for layer, known in zip(below, attributes, strict=True):
        now = vars(layer)
        assert now.keys() == known.keys()
        assert all(now[k] is known[k] for k in known if k != "_dtype_policy")


def test_a_layer_is_never_built_by_a_report():
    class Lazy(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(8)

        def call(self, x):
            return self.dense(x)

    layer = Lazy()
    layer.built = True
    report = tfmp.ConversionReport(model_of(layers.Dense(16), shape=(4, 16)))
    assert report.rows
    alone = tfmp.ConversionReport(layer)
    assert "does not say what it takes" in text_of(alone)
    given = tfmp.ConversionReport(layer, inputs=np.ones((2, 16), "float32"))
    assert "not built" in text_of(given)
    assert not layer.dense.built

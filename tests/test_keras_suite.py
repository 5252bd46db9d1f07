"""Keras' own tests, run with tfmp's classes in place of Keras'.

Each is a test of this file, under float32.  `KNOWN` is all that is to fail.
"""

import keras
import keras_suite
import pytest
from keras_suite import Known

import tfmp

pytestmark = pytest.mark.filterwarnings("ignore:::keras")

MODULES = (
    "layers.core.dense_test",
    "layers.core.einsum_dense_test",
    "layers.convolutional.conv_test",
    "layers.attention.multi_head_attention_test",
    "layers.attention.grouped_query_attention_test",
    "layers.normalization.batch_normalization_test",
    "optimizers.loss_scale_optimizer_test",
    "callbacks.backup_and_restore_test",
    # Of models with tfmp's layers: tfmp has no such callback.
    "callbacks.model_checkpoint_test",
    "dtype_policies.dtype_policy_test",
    "dtype_policies.dtype_policy_map_test",
)
NAMED = Known("the repr of a tfmp.Policy says what it is")
KNOWN = {
    "MultiHeadAttentionTest": {
        "test_shape_mismatch_error_query_value_dim_mismatch": Known(
            "other words of a ValueError: a shape must have three axes"
        ),
    },
    "LossScaleOptimizerTest": {
        "test_finite_step_with_inner_loss_scale_stateful": Known(
            "Keras drops the inner factor and says nothing; tfmp refuses it",
            ValueError,
        ),
        "test_init_dynamic_arg": Known("tfmp's has dynamic=False"),
        "test_serialization": Known("tfmp's config has more arguments"),
    },
    "BackupAndRestoreCallbackTest": {
        "test_backup_corrupted": Known(
            "looks for Keras' two files; tfmp writes one, under a digest"
        ),
        "test_best_case_step": Known(
            "counts batches trained twice; tfmp goes on within the epoch"
        ),
    },
    "DTypePolicyTest": {
        "test_eq": Known(
            "FloatDTypePolicy, asked itself, says False of a tfmp.Policy: only "
            "False can be symmetrical"
        ),
        "test_python_serialization": NAMED,
        "test_repr": NAMED,
    },
    "DTypePolicyMapTest": {
        "test_default_policy": Known(
            "a map with no default forgets Keras' policies, not tfmp's"
        ),
    },
}
FILES = {path: keras_suite.find(path) for path in MODULES}
CASES = {
    path: keras_suite.cases(file, KNOWN)
    for path, file in FILES.items()
    if file is not None
}
QUICK = ("DTypePolicy", "LossScaleOptimizer")
for _cases in CASES.values():
    for _name, _case in _cases.items():
        if not _name.startswith(QUICK):
            pytest.mark.slow(_case)
    globals().update(_cases)


@pytest.mark.parametrize("path", MODULES)
def test_that_keras_ships(path):
    if path not in CASES:
        pytest.skip(f"the wheel of Keras {keras.__version__} has no {path}")
    assert any(map(keras_suite.tests, CASES[path].values()))


def test_each_class_is_collected_once():
    names = [name for cases in CASES.values() for name in cases]
    assert len(names) == len(set(names))
    if len(CASES) == len(MODULES):
        assert set(KNOWN) <= set(names)


# The helper.

MODULE = """
import unittest
from keras.src import layers, testing
from keras.src.layers.core.dense import Dense

class Case(testing.TestCase):
    def test_one(self):
        import keras
        assert keras.layers.Dense is layers.Dense is Dense
        assert Dense.__module__.startswith("tfmp")

    def test_two(self):
        from keras import losses
        assert losses.MeanSquaredError()(1.0, 1.0) == 0
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some_test.py"
    path.write_text(MODULE)
    return path


def test_a_module_finds_the_classes_of_tfmp(file):
    names = keras_suite.load(file)
    assert names["layers"].Dense is names["Dense"] is tfmp.layers.Dense
    assert names["layers"].Conv1D is tfmp.layers.Conv1D
    assert names["layers"].ReLU is keras.layers.ReLU
    names["Case"]("test_one").debug()


def test_a_test_of_keras_classes_fails(file):
    names = keras_suite.load(file, [])
    assert names["Dense"] is keras.layers.Dense
    with pytest.raises(AssertionError):
        names["Case"]("test_one").debug()


def test_what_is_known_must_fail(file):
    known = {"Case": {"test_two": Known("why", KeyError)}}
    case = keras_suite.cases(file, known)["Case"]
    assert keras_suite.tests(case) == ["test_one", "test_two"]
    [mark] = case.test_two.pytestmark
    assert mark.name == "xfail"
    assert mark.kwargs == {"reason": "why", "raises": KeyError, "strict": True}
    assert not hasattr(case.test_one, "pytestmark")


def test_a_known_test_that_is_none(file):
    with pytest.raises(AttributeError, match="test_three"):
        keras_suite.cases(file, {"Case": {"test_three": Known("why")}})


@pytest.mark.parametrize("path", ["layers.core.no_test", "nowhere.no_test"])
def test_a_module_that_is_not_shipped(path):
    assert keras_suite.find(path) is None

"""Keras' own tests of what tfmp has too."""
import unittest
import keras_suite
M = """layers.core.dense_test
layers.core.einsum_dense_test
layers.convolutional.conv_test
layers.attention.multi_head_attention_test
layers.attention.grouped_query_attention_test
layers.normalization.batch_normalization_test
optimizers.loss_scale_optimizer_test
callbacks.backup_and_restore_test
callbacks.model_checkpoint_test
dtype_policies.dtype_policy_test
dtype_policies.dtype_policy_map_test""".split()
for m in M:
    mod = keras_suite.load(m)
    for n, v in list(vars(mod).items()):
        if isinstance(v, type) and issubclass(v, unittest.TestCase):
            v.__module__ = __name__
            globals()[n] = v

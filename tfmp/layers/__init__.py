"""Keras layers whose products run on FP8 operands."""

from tfmp.layers.dense import Dense, EinsumDense

__all__ = ["Dense", "EinsumDense"]

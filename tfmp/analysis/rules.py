"""The choices that people make without measuring."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfmp.analysis.candidates import Candidate
from tfmp.analysis.subjects import Subject
from tfmp.cost_model import ALIGNMENT


def torchao(subject: Subject) -> bool:
    """Whether torchao would have a layer in FP8, by its shape.

    A linear layer of K inputs and N outputs is, if 16 divides both, unless
    `K <= 4096` and `N <= 1024`; source: `_auto_filter_for_recipe` in
    `torchao/float8/float8_linear_utils.py`, tensorwise scaling.
    """
    if not isinstance(
        subject.layer, (keras.layers.Dense, keras.layers.EinsumDense)
    ):
        return False
    k, n = subject.products[0].k, subject.products[0].n
    small = k <= 4096 and n <= 1024
    return not (k % ALIGNMENT or n % ALIGNMENT or small)


def uniform(
    candidate: Candidate, otherwise: Candidate, subjects: Sequence[Subject]
) -> dict[str, str]:
    """Gives all layers one precision, those that cannot another."""
    return {
        s.path: (candidate if s.takes(candidate) else otherwise).name
        for s in subjects
    }


def by_shape(
    candidate: Candidate, otherwise: Candidate, subjects: Sequence[Subject]
) -> dict[str, str]:
    """Gives FP8 to the layers that torchao's rule takes."""
    return {
        s.path: (
            candidate if torchao(s) and s.takes(candidate) else otherwise
        ).name
        for s in subjects
    }

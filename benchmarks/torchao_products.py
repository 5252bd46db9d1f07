"""Holds `peers.py` against torchao itself, on single products.

In an environment with PyTorch and torchao, then in that of tfmp:

    python benchmarks/torchao_products.py --theirs products.npz
    python benchmarks/torchao_products.py --ours products.npz \
        --out benchmarks/results/torchao_products.json

`Float8Linear` runs with `emulate=True`: operands rounded as on a GPU, the
product in float32.  Printed is the largest difference of the outputs and of
both gradients, as a share of the largest value, and how many values agree bit
for bit.  Without a difference but the order of sums it is below 1e-6.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

import numpy as np

RECIPES = ("tensorwise", "rowwise")
SHAPE = 256, 384, 128  # rows, inputs, outputs
RESULTS = "outputs", "input gradient", "kernel gradient"


def operands(outliers: bool) -> list[np.ndarray]:
    """Returns inputs, kernel and the outputs' gradient, float32.

    Args:
        outliers: whether some rows are a thousand times as large.
    """
    rng = np.random.default_rng(0)
    rows, width, out = SHAPE
    x, w, d_y = (
        rng.normal(size=shape).astype("float32")
        for shape in ((rows, width), (width, out), (rows, out))
    )
    if outliers:
        x[:4] *= 1000.0
        d_y[4:8] *= 1000.0
    return [x, w / 20.0, d_y]


def theirs(recipe: str, x: Any, w: Any, d_y: Any) -> list[np.ndarray]:
    """Returns what torchao's layer gives forwards and backwards."""
    import torch
    from torchao.float8 import Float8LinearConfig
    from torchao.float8.float8_linear import Float8Linear

    config = Float8LinearConfig.from_recipe_name(recipe)
    config = dataclasses.replace(config, emulate=True)
    layer = torch.nn.Linear(w.shape[0], w.shape[1], bias=False)
    layer.weight = torch.nn.Parameter(torch.from_numpy(w.T.copy()))
    layer = Float8Linear.from_float(layer, config)
    inputs = torch.from_numpy(x).requires_grad_()
    outputs = layer(inputs)
    outputs.backward(torch.from_numpy(d_y))
    found = outputs.detach(), inputs.grad, layer.weight.grad.T
    return [tensor.numpy() for tensor in found]


def ours(recipe: str, x: Any, w: Any, d_y: Any) -> list[np.ndarray]:
    """Returns the same of `peers.einsum`."""
    import peers
    import tensorflow as tf

    how = getattr(peers, recipe.upper())
    x, w = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        outputs = peers.einsum("ab,bc->ac", x, w, how)
    gradients = tape.gradient(outputs, [x, w], output_gradients=d_y)
    return [tensor.numpy() for tensor in (outputs, *gradients)]


def compare(kept: Any) -> list[dict[str, Any]]:
    """Returns, for each product, how far the two are apart."""
    found = []
    for recipe in RECIPES:
        for outliers in (False, True):
            own = ours(recipe, *operands(outliers))
            for name, a in zip(RESULTS, own, strict=True):
                b = kept[f"{recipe} {outliers} {name}"]
                found.append(
                    {
                        "recipe": recipe,
                        "rows of outliers": outliers,
                        "of": name,
                        "largest difference": float(
                            np.abs(a - b).max() / np.abs(b).max()
                        ),
                        "equal": float(np.mean(a == b)),
                    }
                )
    return found


def write_theirs(path: pathlib.Path) -> None:
    """Writes torchao's results."""
    arrays = {}
    for recipe in RECIPES:
        for outliers in (False, True):
            every = theirs(recipe, *operands(outliers))
            for name, array in zip(RESULTS, every, strict=True):
                arrays[f"{recipe} {outliers} {name}"] = array
    import torch
    import torchao

    versions = f"torch {torch.__version__}, torchao {torchao.__version__}"
    np.savez(path, versions=np.array(versions), **arrays)


def write_ours(path: pathlib.Path, out: str | None) -> None:
    """Compares with what torchao's environment wrote."""
    import measuring

    with np.load(path) as kept:
        found = {"against": str(kept["versions"]), "products": compare(kept)}
    for row in found["products"]:
        print(*row.values())
    measuring.write(out, found)


def main() -> None:
    """Either half."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--theirs", type=pathlib.Path, help="to write")
    parser.add_argument("--ours", type=pathlib.Path, help="to compare with")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    if args.theirs:
        write_theirs(args.theirs)
    if args.ours:
        write_ours(args.ours, args.out)


if __name__ == "__main__":
    main()

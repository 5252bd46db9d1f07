"""Numbers of the package unit-scaling, that tests of `tfmp.unit_scaling` keep.

    pip install torch==2.14.1 unit-scaling==0.3.5
    python tests/unit_scaling_reference.py

prints `EXPECTED` of `test_unit_scaling.py`: of one Transformer block the loss,
and of logits and of each parameter's gradient what `digest` makes of them.
"""

from __future__ import annotations

import numpy as np

BATCH, LENGTH, TOKENS, WIDTH, HEADS, HIDDEN = 2, 8, 16, 32, 2, 48
TAU = 0.75
SHAPES = {
    "embedding": (TOKENS, WIDTH),
    "query": (WIDTH, WIDTH),
    "key": (WIDTH, WIDTH),
    "value": (WIDTH, WIDTH),
    "attention_output": (WIDTH, WIDTH),
    "up": (WIDTH, HIDDEN),
    "up_bias": (HIDDEN,),
    "down": (HIDDEN, WIDTH),
    "readout": (WIDTH, TOKENS),
}


def weights() -> dict[str, np.ndarray]:
    """Returns the weights of the block, as kernels `[in, out]`."""
    random = np.random.default_rng(0)
    return {
        name: random.normal(size=shape).astype("float32")
        for name, shape in SHAPES.items()
    }


def tokens() -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and labels."""
    random = np.random.default_rng(1)
    found = random.integers(0, TOKENS, [2, BATCH, LENGTH])
    return found[0].astype("int32"), found[1].astype("int32")


def digest(x: np.ndarray) -> tuple[float, float]:
    """Returns the standard deviation, and a projection that sees each place."""
    x = np.asarray(x, "float64")
    pattern = np.cos(np.arange(x.size)).reshape(x.shape)
    return round(float(x.std()), 5), round(float((x * pattern).sum()), 4)


def main() -> None:
    """Runs the block in the reference, and prints the digests."""
    import torch
    import unit_scaling.functional as U
    from unit_scaling.scale import scale_bwd

    w = {k: torch.tensor(v, requires_grad=True) for k, v in weights().items()}
    inputs, labels = (torch.tensor(each).long() for each in tokens())

    def linear(x, name):
        return U.linear(x, w[name].T, None, constraint=None)

    def heads(x):
        shape = (BATCH, LENGTH, HEADS, WIDTH // HEADS)
        return x.reshape(shape).transpose(1, 2)

    def norm(x):
        return U.layer_norm(x, (WIDTH,))

    x = U.embedding(inputs, w["embedding"])
    y, skip = U.residual_split(x, TAU)
    y = norm(y)
    parts = [heads(linear(y, name)) for name in ("query", "key", "value")]
    y = U.scaled_dot_product_attention(*parts, is_causal=True)
    y = y.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH)
    x = U.residual_add(linear(y, "attention_output"), skip, TAU)
    y, skip = U.residual_split(x, TAU)
    # The package divides the bias by sqrt(fan_in), too, which muP does not.
    bias = scale_bwd(w["up_bias"], (BATCH * LENGTH) ** -0.5)
    y = U.gelu(linear(norm(y), "up") + bias)
    x = U.residual_add(linear(y, "down"), skip, TAU)
    logits = U.linear_readout(norm(x), w["readout"].T, None)
    rows = logits.reshape(-1, TOKENS), labels.reshape(-1)
    loss = U.cross_entropy(*rows)
    loss.backward()
    print("EXPECTED = {")
    print(f'    "loss": {loss.item():.6f},')
    print(f'    "logits": {digest(logits.detach().numpy())},')
    for name, value in w.items():
        print(f'    "{name}": {digest(value.grad.numpy())},')
    print("}")


if __name__ == "__main__":
    main()

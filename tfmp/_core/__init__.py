"""The numbers and the products.

Follow one tensor, `x` in `y = Dense(...)(x)`, under a policy of FP8:

1.  `layers.contraction.Float8Contraction.call` asks the layer's policy for the
    recipe, and hands `x`, the float32 kernel and the layer's state to
2.  `ops.einsum`, which checks its arguments.  Outside of XLA
3.  `lengths` brings the rows to one of few numbers, so that a new
    length of a batch is no new program.
4.  `equations` has the equation as axes: which are summed over, and what
    the products of the two gradients are.
5.  `contractions.contract` makes one differentiable operator of a forward and a
    backward pass; each is one function that XLA compiles.
6.  `float8_passes.Program.forward` is the first.  `scaling.amax` looks at `x`;
    `product_scales` turns what is assumed of it, and what is seen, into a
    power of two, the scale, and the factor that undoes it in the result.
7.  `quantization.quantize` multiplies, clips and converts: `q(x)` is FP8.
8.  `stablehlo.multiply` writes the product of `q(x)` and `q(kernel)` as a
    StableHLO module and calls it; on a CPU `cpu_stablehlo` writes another.
    `op_names` names it, so that an inspection finds it in what XLA compiles.
9.  The factor is applied in the compute dtype; XLA makes it part of the GEMM.
    The layer adds the bias: this is `y`.
10. `q(x)` and `q(kernel)`, one byte an element, are kept for the gradient.

And back, as `dy` arrives:

11. `float8_passes.Program.backward` quantizes `dy` likewise, to E5M2, and
    multiplies twice: `dx = q(dy) q(kernel)^T` and `dkernel = q(x)^T q(dy)`.
12. It assigns the amax of all three to the layer's state (`observations`).
13. `optimizers.amax_history` takes in what all layers saw, over all replicas,
    and gives each the largest of its window: what the next step assumes in 6.

Beside this way: `convolutions` and `windows` are 4 for images;
`emulation`, `emulated_passes` and `bit_rounding` are 6 to 11 for formats that
no hardware has; `statistics` and `probes` measure what 7 did, in a step that a
monitor looks at; `custom_gradients` lets go of gradients with their graph.
"""

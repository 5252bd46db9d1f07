"""What `fuzz.py` calls: every public name of tfmp, with good arguments.

A key is a public name or a method of one, followed by a comma where a name has
several rows.  `missing` holds the table against the modules: a new public name
needs a row, with a good value for each argument without a default.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import house
import keras
import numpy as np
import tensorflow as tf
from fuzz_rows import (
    COMPILES,
    COMPUTES,
    POLICY,
    REPORTED,
    TRACES,
    defaults,
    files,
    fit,
    frozen,
    inspected,
    inspection,
    logged,
    made,
    model,
    optimizer,
    report,
    row,
    saved,
    scope,
    shown,
    traced,
    trained,
    trained_alone,
    written,
    x,
)
from fuzz_tries import Entry, parameters

import tfmp
from tfmp import hardware, policies
from tfmp._comparing.comparison import Latency
from tfmp.conversion.records import flatten
from tfmp.layers import classes

EXPORTED = (getattr(tfmp, name) for name in tfmp.__all__)
MODULES = (
    *(tfmp, hardware, policies),
    *(value for value in EXPORTED if isinstance(value, types.ModuleType)),
)
RECIPE = tfmp.recipes.DelayedScaling()
EMULATED = tfmp.recipes.Emulated("MXFP4")
MAP = tfmp.PrecisionMap({"head": "float32"}, "mixed_float8")
L4 = hardware.Hardware((hardware.Device("gpu", "L4", (8, 9)),))
H200 = tfmp.cost_model.TARGETS["h200"]
PRODUCT = tfmp.cost_model.Product(64, 64, 64)
INSPECTED = {
    **{"layer": "net/a", "product": "output", "result": "bf16"},
    **{"operands": ("bf16", "bf16"), "size": "2 x 4 x 8", "flops": 128},
}
COMPARED = {
    **{"name": "a", "metrics": {"loss": 1.0}, "sqnr": 30.0},
    **{"latency": {1: Latency(1e-3, 2e-3)}, "weight_bytes": 64},
}


def weights_folder() -> str:
    """Writes what `load_safetensors` reads."""
    tfmp.export(model(), "weights", "safetensors")
    return "weights"


def public() -> dict[str, Callable[..., Any]]:
    """Returns every public function and class, by its shortest name."""
    names = {
        value: f"{module.__name__}.{name}".removeprefix("tfmp.")
        for module in reversed(MODULES)
        for name, value in house.public_names(module).items()
        if callable(value) and value.__module__.startswith("tfmp")
    }
    return {name: value for value, name in names.items()}


def missing(
    table: Mapping[str, Entry], every: Mapping[str, Callable[..., Any]]
) -> list[str]:
    """Returns what a table lacks of `every` name and of its arguments."""
    rows: dict[str, set[str]] = {}
    for key, entry in table.items():
        rows.setdefault(key.split(",")[0], set()).update(entry.good())
    lacking = [
        f"{name}({', '.join(sorted(lost))})"
        for name, value in every.items()
        if (lost := parameters(value) - rows.get(name, set()))
    ]
    return [*(n for n in every if n not in rows), *lacking]


VALUES = {
    "formats.Format": row(
        shown(tfmp.formats.Format),
        **{"name": "X", "dtype": "x", "exponent_bits": 4, "mantissa_bits": 3},
    ),
    "formats.Format.decode": row(tfmp.formats.E4M3.decode, code=3),
    "formats.BlockFormat": row(
        shown(tfmp.formats.BlockFormat),
        **{"name": "X", "element": tfmp.formats.E2M1, "block_size": 32},
        scale=tfmp.formats.E8M0,
    ),
    "formats.get": row(tfmp.formats.get, dtype="E4M3"),
    "formats.get_plain": row(tfmp.formats.get_plain, dtype="E4M3"),
    "formats.serialize": row(
        lambda format: tfmp.formats.serialize(format), format=tfmp.formats.NVFP4
    ),
    "recipes.Recipe": row(shown(tfmp.recipes.Recipe)),
    "recipes.Float8Recipe": row(shown(tfmp.recipes.Float8Recipe)),
    "recipes.Emulated": row(shown(tfmp.recipes.Emulated), forward="MXFP4"),
    "recipes.Emulated.format": row(EMULATED.format, role="kernel"),
    "recipes.Emulated.lowers": row(EMULATED.lowers, product="output"),
    "recipes.Emulated.rounding_of": row(EMULATED.rounding_of, role="grads"),
    "recipes.Emulated.from_config": row(
        tfmp.recipes.Emulated.from_config, config=EMULATED.get_config()
    ),
    "recipes.CurrentScaling": row(shown(tfmp.recipes.CurrentScaling)),
    "recipes.StaticScaling": row(shown(tfmp.recipes.StaticScaling)),
    "recipes.DelayedScaling": row(shown(tfmp.recipes.DelayedScaling)),
    "recipes.DelayedScaling.format": row(RECIPE.format, role="kernel"),
    "recipes.DelayedScaling.is_delayed": row(RECIPE.is_delayed, role="grads"),
    "recipes.DelayedScaling.in_float8": row(RECIPE.in_float8, product="output"),
    "recipes.DelayedScaling.quantizes": row(RECIPE.quantizes, role="kernel"),
    "recipes.DelayedScaling.keep_high_precision": row(
        RECIPE.keep_high_precision, products=("output",)
    ),
    "recipes.DelayedScaling.from_config": row(
        tfmp.recipes.DelayedScaling.from_config, config={"margin": 1}
    ),
    "recipes.get": row(tfmp.recipes.get, recipe="current"),
    "recipes.serialize": row(tfmp.recipes.serialize, recipe=RECIPE),
    "cost_model.Target": row(
        tfmp.cost_model.Target,
        **{"name": "x", "bfloat16": 1.0, "float8": 2.0, "bandwidth": 1.0},
    ),
    "cost_model.Product": row(shown(tfmp.cost_model.Product), m=2, k=3, n=4),
    "cost_model.get": row(tfmp.cost_model.get, target="l4"),
    **{
        f"cost_model.{f.__name__}": row(f, product=PRODUCT, target=H200)
        for f in (
            tfmp.cost_model.bfloat16_time,
            tfmp.cost_model.float8_time,
            tfmp.cost_model.speedup,
        )
    },
    "cost_model.unaligned": row(
        lambda sides: tfmp.cost_model.unaligned(sides), sides=3
    ),
    "hardware.Device": row(shown(hardware.Device), kind="gpu"),
    "hardware.Hardware": row(shown(hardware.Hardware)),
    "hardware.Hardware.precisions_of": row(
        L4.precisions_of, device=L4.devices[0]
    ),
    "hardware.Hardware.lacks": row(L4.lacks, device=L4.devices[0]),
    "hardware.Decision": row(
        shown(hardware.Decision), policy="float32", reason=""
    ),
    "hardware.detect": row(hardware.detect),
    "hardware.cpu_features": row(hardware.cpu_features, cpuinfo="flags : fpu"),
    "hardware.decide": row(hardware.decide, hardware=L4),
    "Configuration": row(
        shown(tfmp.Configuration),
        **{"hardware": L4, "requested": "auto", "policy": POLICY, "reason": ""},
    ),
    "configure": row(tfmp.configure, hardware=L4, policy="mixed_float8"),
    "ExportedLayer": row(
        shown(tfmp.ExportedLayer),
        path="a",
        type="b",
        precision="c",
        exported="",
    ),
    "InspectedProduct": row(shown(tfmp.InspectedProduct), **INSPECTED),
    "Inspection": row(
        inspection,
        subject="net",
        program="given",
        products=(tfmp.InspectedProduct(**INSPECTED),),
    ),
    "ExportReport": row(
        tfmp.ExportReport,
        **{"path": "a", "format": "onnx", "kernels": "float", "layers": ()},
    ),
}
POLICIES = {
    "Policy": row(tfmp.Policy, name="mixed_float8"),
    "global_policy": row(tfmp.global_policy),
    "set_global_policy": row(tfmp.set_global_policy, policy="mixed_float8"),
    "policy_scope": row(scope, policy="mixed_float8"),
    "policies.get": row(policies.get, dtype="float32"),
    "policies.recipe_of": row(policies.recipe_of, policy=POLICY),
    "policies.policy_at": row(policies.policy_at, policy=MAP, path="head"),
    "policies.in_projections": row(
        policies.in_projections, policy=MAP, path="head"
    ),
    "policies.recipe_at": row(policies.recipe_at, policy=POLICY, path="head"),
    "policies.checked": row(policies.checked, policy="float32"),
    "policies.set_global_policy": row(
        policies.set_global_policy, policy="float32"
    ),
    "policies.policy_scope": row(
        lambda policy: policies.policy_scope(policy).__enter__(),
        policy="float32",
    ),
    "PrecisionMap": row(shown(tfmp.PrecisionMap), policies={"a": "float32"}),
    "PrecisionMap.match": row(lambda path: MAP.match(path), path="a/b"),
    "PrecisionMap.unmatched": row(MAP.unmatched, paths=["a/b"]),
    "PrecisionMap.from_config": row(
        tfmp.PrecisionMap.from_config, config=MAP.get_config()
    ),
    "PrecisionMap.save": made(
        MAP.save, lambda: {"path": "a.json"}, COMPUTES, raises=(OSError,)
    ),
    "PrecisionMap.load": made(
        lambda path: tfmp.PrecisionMap.load(MAP.save("a.json") or path),
        lambda: {"path": "a.json"},
        COMPUTES,
        raises=(OSError,),
    ),
    "PrecisionMap.load, what a file holds": made(
        lambda path: tfmp.PrecisionMap.load(written(path)),
        lambda: {"path": {"default": "float32"}},
        COMPUTES,
    ),
}
MODELS = {
    "ConversionReport": made(
        report, lambda: {"model": trained()["model"], **REPORTED}, TRACES
    ),
    "convert": made(tfmp.convert, lambda: {"model": model()}, TRACES),
    "revert": made(tfmp.revert, lambda: {"model": model()}, TRACES),
    "freeze": made(tfmp.freeze, lambda: {"model": trained_alone()}, COMPILES),
    "thaw": made(tfmp.thaw, lambda: {"model": frozen()}, COMPILES),
    "FrozenRow": row(
        shown(tfmp.FrozenRow),
        **{"path": "a", "type": "Dense", "before": 64, "after": 24},
        kernel="E4M3",
    ),
    "FreezeReport": row(
        shown(tfmp.FreezeReport),
        rows=(tfmp.FrozenRow("a", "Dense", 64, 24, "E4M3"),),
    ),
    "set_precision": made(
        tfmp.set_precision,
        lambda: {"model": model(), "precision": {"head": "float32"}},
        TRACES,
    ),
    "summary": made(
        tfmp.summary,
        lambda: {"model": trained()["model"], "print_fn": list},
        TRACES,
    ),
    "reporting.ReportFiles": row(
        shown(tfmp.reporting.ReportFiles),
        page=pathlib.Path("a"),
        plots=(),
        runs=(),
    ),
    "reporting.write_report": made(
        tfmp.reporting.write_report,
        lambda: {"log_dirs": [logged()], "out": "r.html"},
        COMPUTES,
        raises=(OSError,),
    ),
    "ComparedModel": row(shown(tfmp.ComparedModel), **COMPARED),
    "ComparedModel.throughput": row(
        tfmp.ComparedModel(**COMPARED).throughput, batch_size=1
    ),
    "Comparison": row(
        shown(tfmp.Comparison), models=(tfmp.ComparedModel(**COMPARED),)
    ),
    "compare": made(
        tfmp.compare,
        lambda: {"models": trained()["model"], "data": x(), "runs": 1},
        COMPILES,
    ),
    "export": made(
        tfmp.export,
        lambda: {"model": trained()["model"], "path": "served"},
        COMPILES,
        raises=(OSError,),
    ),
    **{
        f.__name__: made(
            functools.partial(inspected, f),
            lambda f=f: {
                **defaults(f),
                "model_or_function": trained()["model"],
                "inputs": x(),
            },
            COMPILES,
            raises=(AssertionError, ImportError),
        )
        for f in (tfmp.inspect, tfmp.assert_fp8)
    },
    "callbacks.ScaleMonitor": row(tfmp.callbacks.ScaleMonitor),
    "callbacks.ScaleMonitor, its files": made(
        lambda log_dir=None: files(tfmp.callbacks.ScaleMonitor(log_dir)),
        dict,
        TRACES,
    ),
    "optimizers.LossScaleOptimizer": row(
        tfmp.optimizers.LossScaleOptimizer, COMPUTES, inner_optimizer="sgd"
    ),
    "optimizers.LossScaleOptimizer.build": made(
        lambda var_list: optimizer(False).build(var_list),
        lambda: {"var_list": trained()["variables"]},
        TRACES,
    ),
    "optimizers.LossScaleOptimizer.rebuild": made(
        lambda var_list: optimizer().rebuild(var_list),
        lambda: {"var_list": trained()["variables"]},
        TRACES,
    ),
    "optimizers.LossScaleOptimizer.apply": made(
        lambda grads, trainable_variables=None: optimizer().apply(
            grads, trainable_variables
        ),
        lambda: {"grads": trained()["gradients"]},
        TRACES,
    ),
}

W = {"kernel": x(3, 3, 16, 4), "inputs": x(2, 8, 8, 16)}
SPECS = {
    "conv": {
        "inputs": tf.TensorSpec([None, 8, 8, 16]),
        "kernel": tf.TensorSpec([3, 3, 16, 4]),
    },
    "einsum": {
        "equation": "...a,ab->...b",
        "a": tf.TensorSpec([None, 16]),
        "b": tf.TensorSpec([16, 4]),
    },
    "matmul": {"a": tf.TensorSpec([None, 16]), "b": tf.TensorSpec([16, 4])},
}
FAULT = {
    **{"tensor": "loss", "name": "", "layer": "", "layer_class": ""},
    **{"shape": (), "dtype": "float32", "nans": 1, "infinities": 0},
    **{"first": (), "before": 1.0},
}
TOO_LARGE = ("tensor", "name", "layer", "layer_class", "shape", "dtype")
SAVING = {
    "checkpoints.load_safetensors": made(
        tfmp.checkpoints.load_safetensors,
        lambda: {"model": model(), "folder": weights_folder()},
        COMPUTES,
        raises=(OSError,),
    ),
    "callbacks.BackupAndRestore": row(
        tfmp.callbacks.BackupAndRestore, backup_dir="backup"
    ),
    "callbacks.TerminateOnOverflow": row(tfmp.callbacks.TerminateOnOverflow),
    "callbacks.Pruning": row(tfmp.callbacks.Pruning),
    "callbacks.PrecisionScheduler": row(
        tfmp.callbacks.PrecisionScheduler, schedule={0: "mixed_float8"}
    ),
    "callbacks.AdaptivePrecision": row(tfmp.callbacks.AdaptivePrecision),
    "callbacks.PrecisionRule": row(shown(tfmp.callbacks.PrecisionRule)),
    "callbacks.Rollback": row(shown(tfmp.callbacks.Rollback)),
    "callbacks.PrecisionBounds": row(shown(tfmp.callbacks.PrecisionBounds)),
    "callbacks.PrecisionBounds.outside": row(
        tfmp.callbacks.PrecisionBounds().outside, values={"sqnr": 4.0}
    ),
    "callbacks.Change": row(
        shown(tfmp.callbacks.Change),
        **{"step": 1, "epoch": 0, "kind": "up", "layer": "net/a"},
        **{"before": "mixed_float8", "after": "float32", "reason": "x"},
    ),
    "checkpoints.all_or_nothing": made(
        lambda model: tfmp.checkpoints.all_or_nothing(model).__enter__(),
        lambda: {"model": trained()["model"]},
        COMPUTES,
    ),
    **{
        f"checkpoints.{f.__name__}": made(
            f, lambda: {"model": trained()["model"]}, COMPUTES
        )
        for f in (tfmp.checkpoints.keep_seeds, tfmp.checkpoints.variables)
    },
    "checkpoints.save_weights": made(
        tfmp.checkpoints.save_weights,
        lambda: {"model": trained()["model"], "path": "saved.weights.h5"},
        TRACES,
        raises=(OSError,),
    ),
    "checkpoints.load_weights": made(
        tfmp.checkpoints.load_weights,
        lambda: {"model": trained()["model"], "path": saved()},
        TRACES,
        raises=(OSError,),
    ),
    "checkpoints.read_notes": made(
        tfmp.checkpoints.read_notes,
        lambda: {"path": saved()},
        TRACES,
        raises=(OSError,),
    ),
    "debug.NonFinite": row(tfmp.debug.NonFinite, **FAULT),
    "debug.NonFiniteError": row(tfmp.debug.NonFiniteError, message=""),
    "debug.TooLarge": row(
        tfmp.debug.TooLarge,
        **{k: v for k, v in FAULT.items() if k in TOO_LARGE},
        largest=1.0,
        limit=1.0,
    ),
    "debug.find_nonfinite": made(
        tfmp.debug.find_nonfinite,
        lambda: {"model": trained()["model"], "x": x()},
        COMPILES,
    ),
}
EFFECT = tfmp.analysis.Effect(
    *("a", "layer", "mixed_float8", 20.0, 0.1, 0.1, 0.99, 0.0, 0.1)
)
EFFECTS = tuple(dataclasses.replace(EFFECT, layer=name) for name in "abc")
SENSITIVITY = tfmp.analysis.Sensitivity("measure", EFFECTS, "float32", 2.0, 64)


def searchable() -> dict[str, Any]:
    """Returns a model, and a sensitivity that has a row for each layer."""
    net = model()
    rows = tuple(
        dataclasses.replace(EFFECT, layer=path, candidate="mixed_bfloat16")
        for path in flatten(net)
    )
    known = dataclasses.replace(SENSITIVITY, rows=rows)
    return {"model": net, "sensitivity": known}


RANGE = tfmp.analysis.InitialRange("a", "grads", "E5M2", 0.1, 0.5, 0.0)
POINT = tfmp.analysis.Point("a", {"a": "float32"}, 0.1, 0.1, 1.0)
ANALYSED = {"loss": "mse", "samples": 2, "verbose": False}
ANALYSES = {
    "analysis.Agreement": row(
        shown(tfmp.analysis.Agreement),
        **{"role": "layer", "rows": 3, "spearman": {"loss_rms": 1.0}},
        **{"ratio": 1.0, "seconds": (1.0, 2.0)},
    ),
    "analysis.Effect": row(
        shown(tfmp.analysis.Effect), **dataclasses.asdict(EFFECT)
    ),
    "analysis.Point": row(
        shown(tfmp.analysis.Point), **dataclasses.asdict(POINT)
    ),
    "analysis.Point.keeps": row(POINT.keeps, budget={"time": 1.0}),
    "analysis.Sensitivity": row(
        shown(tfmp.analysis.Sensitivity),
        **{"method": "measure", "rows": (EFFECT,), "reference": "float32"},
        **{"loss": 2.0, "samples": 64},
    ),
    "analysis.Sensitivity.expected_increase": row(
        SENSITIVITY.expected_increase, row=EFFECT
    ),
    "analysis.Sensitivity.from_json": row(
        tfmp.analysis.Sensitivity.from_json, text=SENSITIVITY.to_json()
    ),
    "analysis.Sensitivity.only": row(SENSITIVITY.only),
    "analysis.Sensitivity.percent": row(SENSITIVITY.percent, change=0.1),
    "analysis.SearchResult": row(
        shown(tfmp.analysis.SearchResult),
        **{"best": POINT, "precision_map": MAP, "frontier": (POINT,)},
        **{"baselines": (), "budget": {"time": 1.0}, "target": "h200"},
        sensitivity=SENSITIVITY,
    ),
    "analysis.compare": row(
        tfmp.analysis.compare, first=SENSITIVITY, second=SENSITIVITY
    ),
    "analysis.spearman": row(
        tfmp.analysis.spearman, first=[1.0, 2.0], second=[1.0, 3.0]
    ),
    "analysis.sensitivity": made(
        tfmp.analysis.sensitivity,
        lambda: {
            **{"model": model(), "data": (x(), x(2, 4)), **ANALYSED},
            **{"candidates": ["mixed_bfloat16"], "roles": ["layer"]},
        },
        COMPILES,
    ),
    "analysis.InitialRange": row(
        shown(tfmp.analysis.InitialRange), **dataclasses.asdict(RANGE)
    ),
    "analysis.Initialization": row(
        shown(tfmp.analysis.Initialization),
        **{"recipe": tfmp.recipes.StaticScaling(), "rows": (RANGE,)},
    ),
    "analysis.Initialization.static_scaling": row(
        tfmp.analysis.Initialization(
            tfmp.recipes.StaticScaling(), (RANGE,)
        ).static_scaling
    ),
    "analysis.initialization": made(
        tfmp.analysis.initialization,
        lambda: {"model": model(), "data": (x(), x(2, 4)), "loss": "mse"},
        COMPILES,
    ),
    "analysis.search": made(
        tfmp.analysis.search,
        lambda: {
            **searchable(),
            **{"budget": {"time": 1.0}, "candidates": ["mixed_bfloat16"]},
        },
        COMPILES,
    ),
}
OPERATORS = {
    "ops.amax": row(tfmp.ops.amax, COMPUTES, x=x()),
    "ops.clear_programs": row(tfmp.ops.clear_programs),
    "ops.compute_scale": row(
        tfmp.ops.compute_scale, COMPUTES, amax=x(3), dtype="E4M3"
    ),
    "ops.dequantize": row(
        tfmp.ops.dequantize,
        COMPUTES,
        q=tfmp.ops.quantize(x(), 1.0, "E4M3"),
        scale=1.0,
    ),
    "ops.emulate": row(tfmp.ops.emulate, COMPUTES, x=x(), format="MXFP4"),
    "ops.emulate, of other values": made(
        tfmp.ops.emulate,
        lambda: {"x": x(), "format": "E2M1", "scale": 1.0, "seed": None},
        COMPUTES,
    ),
    "ops.sqnr": row(tfmp.ops.sqnr, COMPUTES, reference=x(), approximation=x()),
    **{
        f"ops.{f.__name__}": row(f, COMPUTES, x=x(), scale=1.0, dtype="E5M2")
        for f in (
            tfmp.ops.quantize,
            tfmp.ops.max_ulp_error,
            tfmp.ops.saturation_share,
            tfmp.ops.underflow_share,
        )
    },
    "ops.conv": row(tfmp.ops.conv, TRACES, **W),
    "ops.einsum": row(
        tfmp.ops.einsum, TRACES, equation="ab,bc->ac", a=x(), b=x(16, 4)
    ),
    "ops.Pass": row(tfmp.ops.Pass),
    "ops.Probe": row(tfmp.ops.Probe),
    "ops.Probe.read": made(
        lambda recipe: tfmp.ops.Probe().read(recipe),
        lambda: {"recipe": "delayed"},
        COMPUTES,
    ),
    "ops.matmul": row(tfmp.ops.matmul, TRACES, a=x(), b=x(16, 4)),
    **{
        f"ops.{name}, in a graph": row(
            traced(getattr(tfmp.ops, name)), TRACES, **specs
        )
        for name, specs in SPECS.items()
    },
}
REQUIRED: dict[str, tuple[dict[str, Any], int]] = {
    "Dense": ({"units": 4}, 2),
    "EinsumDense": ({"equation": "ab,bc->ac", "output_shape": 4}, 2),
    "Conv1D": ({"filters": 4, "kernel_size": 2}, 3),
    "Conv2D": ({"filters": 4, "kernel_size": 2}, 4),
    "Conv3D": ({"filters": 4, "kernel_size": 2}, 5),
    "MultiHeadAttention": ({"num_heads": 2, "key_dim": 4}, 3),
    "GroupedQueryAttention": (
        {"head_dim": 4, "num_query_heads": 4, "num_key_value_heads": 2},
        3,
    ),
    "BatchNormalization": ({}, 2),
}
REQUIRED["GroupQueryAttention"] = REQUIRED["GroupedQueryAttention"]


def layer_rows(name: str) -> dict[str, Entry]:
    """Returns what is tried of a layer: arguments, shapes and inputs."""
    ours, (required, rank) = getattr(tfmp.layers, name), REQUIRED[name]
    stock = classes.stock_of(ours)
    usual = {**defaults(keras.Layer), **defaults(stock), **required}
    many = 2 if "Attention" in name else 1
    shape = (2,) + (6,) * (rank - 2) + (16,)

    def use(cls: type, inputs: Any, **given: Any) -> Any:
        # Keras knows no policy of FP8, and what is tried is not the policy.
        if cls is stock and given["dtype"] is POLICY:
            given["dtype"] = "mixed_bfloat16"
        return cls(**given)(*[inputs] * many)

    def shapes(cls: type, input_shape: Any) -> None:
        cls(**required, dtype=dtype(cls)).build(*[input_shape] * many)

    def call(cls: type, inputs: Any) -> None:
        cls(**required, dtype=dtype(cls))(*[inputs] * many)

    def dtype(cls: type) -> Any:
        return "mixed_bfloat16" if cls is stock else POLICY

    def both(function: Callable[..., Any], good: Any, weight: float) -> Entry:
        ours_, stock_ = (functools.partial(function, c) for c in (ours, stock))
        return Entry(ours_, good, weight, stock_)

    symbolic = keras.KerasTensor(shape)
    start = {**usual, "dtype": POLICY}
    return {
        f"layers.{name}": both(
            lambda cls, **given: use(cls, symbolic, **given),
            lambda: start,
            TRACES,
        ),
        f"layers.{name}.build": both(
            shapes, lambda: {"input_shape": shape}, TRACES
        ),
        f"layers.{name}, called": both(
            call, lambda: {"inputs": symbolic}, COMPILES
        ),
    }


LAYERS = {k: v for name in REQUIRED for k, v in layer_rows(name).items()}
SEQUENCE = keras.KerasTensor((2, 6, 16))


def unit_row(name: str, inputs: Any, stock: Any = None, **good: Any) -> Entry:
    """Returns what is tried of a layer of `unit_scaling`, and Keras' own."""
    ours = getattr(tfmp.unit_scaling, name)
    start = {**defaults(ours), **good}

    def use(cls: Any, **given: Any) -> Any:
        own = ("readout", "alpha") if cls is stock else ()
        return cls(**{k: v for k, v in given.items() if k not in own})(*inputs)

    other = stock and functools.partial(use, stock)
    return Entry(functools.partial(use, ours), lambda: start, TRACES, other)


UNIT = {
    "unit_scaling.Dense": unit_row(
        "Dense", [SEQUENCE], keras.layers.Dense, units=4
    ),
    "unit_scaling.EinsumDense": unit_row(
        "EinsumDense",
        [SEQUENCE],
        keras.layers.EinsumDense,
        **{"equation": "abc,cd->abd", "output_shape": (None, 4)},
    ),
    "unit_scaling.Embedding": unit_row(
        "Embedding",
        [keras.KerasTensor((2, 6), "int32")],
        keras.layers.Embedding,
        **{"input_dim": 8, "output_dim": 4},
    ),
    "unit_scaling.MultiHeadAttention": unit_row(
        "MultiHeadAttention",
        [SEQUENCE, SEQUENCE],
        keras.layers.MultiHeadAttention,
        **{"num_heads": 2, "key_dim": 4},
    ),
    "unit_scaling.ResidualSplit": unit_row("ResidualSplit", [SEQUENCE]),
    "unit_scaling.ResidualAdd": unit_row("ResidualAdd", [[SEQUENCE] * 2]),
    "unit_scaling.residual_tau": row(
        tfmp.unit_scaling.residual_tau, index=1, depth=2
    ),
    "unit_scaling.relu": row(tfmp.unit_scaling.relu, COMPUTES, x=x()),
    "unit_scaling.gelu": row(tfmp.unit_scaling.gelu, COMPUTES, x=x()),
    "unit_scaling.silu": row(tfmp.unit_scaling.silu, COMPUTES, x=x()),
    "unit_scaling.scale_forward": row(
        tfmp.unit_scaling.scale_forward, COMPUTES, x=x(), factor=2.0
    ),
    "unit_scaling.scale_backward": row(
        tfmp.unit_scaling.scale_backward, COMPUTES, x=x(), factor=2.0
    ),
    **{
        f"unit_scaling.{name}": made(
            getattr(tfmp.unit_scaling, name),
            dict,
            COMPUTES,
            stock=getattr(keras.losses, name),
        )
        for name in ("MeanSquaredError", "SparseCategoricalCrossentropy")
    },
    "unit_scaling.Adam": row(tfmp.unit_scaling.Adam),
    "unit_scaling.AdamW": row(tfmp.unit_scaling.AdamW),
    "unit_scaling.RateByLayer": row(
        lambda depth=1: tfmp.unit_scaling.Adam(depth=depth)
    ),
    "unit_scaling.RateByLayer.build": made(
        lambda variables: tfmp.unit_scaling.Adam().build(variables),
        lambda: {"variables": [keras.Variable([1.0, 2.0])]},
        TRACES,
    ),
}
FITS = {
    "layers.Dense, in fit": Entry(
        functools.partial(fit, tfmp.layers.Dense),
        lambda: {"inputs": np.ones([4, 16]), "targets": np.ones([4, 4])},
        COMPILES / 10,
        functools.partial(fit, keras.layers.Dense),
    )
}
TABLE = {
    **VALUES,
    **POLICIES,
    **MODELS,
    **SAVING,
    **ANALYSES,
    **OPERATORS,
    **LAYERS,
    **UNIT,
    **FITS,
}

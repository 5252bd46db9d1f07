"""`configure`: looks at the machine, sets a policy and says why."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import keras

from tfmp import policies, recipes
from tfmp._support import checks
from tfmp._support.policy_names import parts
from tfmp.conversion import stock_layers
from tfmp.conversion.layer_choice import target_of
from tfmp.hardware import LOSS_SCALE, SINCE, Hardware, decide, detect

EMULATED = (
    "products are emulated: multiplied in float32, on any machine, slower than "
    "16 bits."
)


@dataclasses.dataclass(frozen=True, repr=False)
class Configuration:
    """What `configure` found and did; printing it gives a short report.

    Attributes:
        hardware: the machine it looked at.
        requested: `"auto"`, or the name of the policy asked for.
        policy: the dtype policy it set.
        reason: why this policy.
        notes: what else to know; may be empty.

    >>> from tfmp.hardware import Device
    >>> cpu = Hardware((Device("cpu", "x86_64"),))
    >>> with policies.policy_scope("float32"):
    ...     configure("mixed_float16", hardware=cpu).policy.compute_dtype
    'float16'
    """

    hardware: Hardware
    requested: str
    policy: keras.DTypePolicy
    reason: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.fields(self, hardware=Hardware, policy=keras.DTypePolicy)
        checks.fields(self, requested=str, reason=str, notes=tuple)

    def __str__(self) -> str:
        recipe = policies.recipe_of(self.policy)
        chosen = self.policy.name + (f" with {recipe}" if recipe else "")
        rows = [("found", self.hardware), ("chose", chosen)]
        rows += [("why", self.reason), *(("note", n) for n in self.notes)]
        return "\n".join(_row(title, str(text)) for title, text in rows)

    __repr__ = __str__


def configure(
    policy: str | keras.DTypePolicy = "auto",
    recipe: Any = None,
    hardware: Hardware | None = None,
    convert: Any = None,
) -> Configuration:
    """Sets the global policy that suits this machine, or the one asked for.

    | machine                                      | "auto" chooses   |
    |----------------------------------------------|------------------|
    | NVIDIA GPU, compute capability 8.9 and later | `mixed_float8`   |
    | NVIDIA GPU, compute capability 8.0 to 8.8    | `mixed_bfloat16` |
    | NVIDIA GPU, compute capability 7.0 to 7.9    | `mixed_float16`  |
    | older, AMD or Apple GPU                      | `float32`        |
    | TPU                                          | `mixed_bfloat16` |
    | CPU with AMX-BF16, AVX512-BF16 or ARM's BF16 | `mixed_bfloat16` |
    | any other CPU                                | `float32`        |

    NVIDIA's tensor cores multiply float16 since Volta (7.0), bfloat16 since
    Ampere (8.0) and FP8 since Ada (8.9) and Hopper (9.0); see
    `tfmp.hardware`.  Of several GPUs the weakest decides.  XLA compiles FP8:
    for Blackwell (10.0 and later) with a TensorFlow built with CUDA 12.8 or
    later, else "auto" chooses `mixed_bfloat16` there.  To ask without setting
    anything: `hardware.decide(hardware.detect())`.

    Args:
        policy: `"auto"`, a name of `tfmp.policies.NAMES`, or a dtype policy.
        recipe: how `mixed_float8` uses FP8: a `tfmp.recipes` recipe or preset
            name.  Unused, with a note, if "auto" does not choose
            `mixed_float8`.
        hardware: the machine; by default `hardware.detect()`.
        convert: what becomes of stock Keras layers under `mixed_float8`, as
            for `set_global_policy`: with True they contract in FP8 where it
            pays, with nothing else to change.

    Returns:
        A `Configuration`: what was found, what was chosen and why.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `policy` or `recipe` is unknown, or if a recipe comes
            with a policy that is not the name `"mixed_float8"` or `"auto"`, or
            if `convert` is not allowed.
            The global policy is then as it was.

    >>> from tfmp.hardware import Device
    >>> lab = Hardware((Device("gpu", "NVIDIA L4", (8, 9)), Device("cpu")))
    >>> with policies.policy_scope("float32"):
    ...     print(configure(hardware=lab))
    found: GPU NVIDIA L4 (compute capability 8.9), CPU
    chose: mixed_float8 with DelayedScaling()
    why:   GPU NVIDIA L4 (compute capability 8.9); tensor cores multiply float16
           from 7.0, bfloat16 from 8.0, float8 from 8.9.
    """
    recipe = None if recipe is None else recipes.get(recipe)
    asked = _asked_policy(policy, recipe)
    machine = detect() if hardware is None else hardware
    if asked is None:
        result = _automatic(machine, recipe)
    else:
        result = _explicit(machine, asked)
    stock_layers.follow(result.policy, convert, target_of(machine))
    policies.set_global_policy(result.policy)
    return result


def _asked_policy(
    policy: object, recipe: recipes.Recipe | None
) -> keras.DTypePolicy | None:
    if isinstance(policy, keras.DTypePolicy):
        if recipe is None:
            return policy
        raise ValueError(
            "`recipe` must be None when `policy` is a dtype policy, which "
            f"carries its own. Received: policy={policy!r}, recipe={recipe!r}"
        )
    if isinstance(policy, str) and parts(policy)[0] in policies.NAMES:
        return policies.Policy(policy, recipe)
    checks.choice("policy", policy, ("auto", *policies.NAMES))
    return None


def _automatic(
    hardware: Hardware, recipe: recipes.Recipe | None
) -> Configuration:
    decision = decide(hardware)
    notes = decision.warnings
    if recipe is not None and decision.policy != "mixed_float8":
        notes += (f"{recipe} is not used: {decision.policy} has no FP8.",)
        recipe = None
    elif recipe is not None and recipe.emulates:
        notes += (EMULATED,)
    policy = policies.Policy(decision.policy, recipe)
    return Configuration(hardware, "auto", policy, decision.reason, notes)


def _explicit(hardware: Hardware, policy: keras.DTypePolicy) -> Configuration:
    auto = decide(hardware)
    reason = f'asked for; "auto" chooses {auto.policy} here: {auto.reason}'
    notes = (
        *_speed_notes(policy.name, hardware),
        *_training_notes(policy.name, hardware),
    )
    if policies.emulates(policy):
        notes = (EMULATED,)
    return Configuration(hardware, policy.name, policy, reason, notes)


def _speed_notes(name: str, hardware: Hardware) -> tuple[str, ...]:
    precision = name.removeprefix("mixed_")
    if precision not in SINCE or precision in hardware.precisions:
        return ()
    device = hardware.weakest if hardware.devices else None
    lacking = device and precision == "float8" and hardware.lacks(device)
    if lacking:
        return (f"{name} cannot run: {lacking}",)
    if device and device.kind != "cpu" and device.compute_capability is None:
        if precision == "float8":
            return (f"tfmp's FP8 products are untested on {device}.",)
        if device.kind == "gpu":
            return ()
    return (
        f"{name} was asked for; {device or 'this machine'} has no fast "
        f"{precision}: its numbers are right, its speed is not.",
    )


def _training_notes(name: str, hardware: Hardware) -> tuple[str, ...]:
    notes = []
    if name.endswith("float16") and not name.endswith("bfloat16"):
        notes.append(LOSS_SCALE)
        if "bfloat16" in hardware.precisions:
            notes.append("bfloat16 is fast here and needs no loss scale.")
    if name in ("float16", "bfloat16"):
        notes.append(
            f"{name} keeps the variables in 16 bits too, and small updates "
            f"are lost; mixed_{name} keeps them in float32."
        )
    return tuple(notes)


def _row(title: str, text: str) -> str:
    return textwrap.fill(
        f"{title + ':':<7}{text}",
        width=80,
        subsequent_indent=" " * 7,
        break_long_words=False,
        break_on_hyphens=False,
    )

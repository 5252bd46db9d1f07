"""`tfmp convert`: a model's file in another precision."""

from __future__ import annotations

import argparse
from typing import Any

from tfmp import cost_model, recipes
from tfmp._command_line import model_files, quiet_import, revert_command
from tfmp._command_line.outcome import Command, Outcome
from tfmp._support.policy_names import NAMES, full_name

USUAL = "mixed_float8"


def _arguments(parser: argparse.ArgumentParser) -> None:
    model_files.add_arguments(parser)
    model_files.add_out(parser)
    _policy_arguments(parser)
    _choice_arguments(parser)
    parser.set_defaults(usage=parser.error)


def _policy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        type=full_name,
        choices=NAMES,
        metavar="NAME",
        help=f"dtype policy ({USUAL}): {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--recipe",
        choices=tuple(recipes.PRESETS),
        metavar="NAME",
        help=f"how FP8 is scaled: {', '.join(recipes.PRESETS)}",
    )
    parser.add_argument(
        "--map",
        metavar="FILE",
        help="precision map (JSON or YAML), in place of --policy and "
        "--recipe: policies by path or pattern, alone or as `policies` beside "
        f"a `default` for all other layers ({USUAL})",
    )


def _choice_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--filter",
        action="append",
        metavar="WHICH",
        help="layers that go to FP8: all, auto (where it pays), or a pattern "
        "of paths; patterns may be repeated",
    )
    parser.add_argument(
        "--target",
        choices=tuple(cost_model.TARGETS),
        metavar="GPU",
        help="the GPU where FP8 should pay, for --filter auto: "
        f"{', '.join(cost_model.TARGETS)}",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=("first", "last"),
        help="keep this layer in 16 bits; may be repeated",
    )


def _run(options: argparse.Namespace) -> Outcome:
    if options.map and (options.policy or options.recipe):
        options.usage("--map goes without --policy and --recipe")
    out = model_files.checked_out(options.out, options.force)
    policy = _policy(options)
    model = model_files.load(options.model, options.modules)
    if options.map:
        _check_paths(policy, model)
    from tfmp import conversion

    filter = options.filter
    if filter and len(filter) == 1:
        filter = filter[0]
    report = conversion.convert(
        model,
        policy,
        filter,
        target=options.target,
        skip=tuple(options.skip),
        batch_size=options.batch_size,
        length=options.length,
    )
    if options.policy == "float32" and not options.map:
        revert_command.to_keras(model, "float32")  # what plain Keras loads
    model_files.save(model, out)
    text = f"{report}\nwrote {out}"
    return Outcome(text, {"path": str(out), **report.to_dict()})


def _policy(options: argparse.Namespace) -> Any:
    quiet_import.import_tensorflow()
    from tfmp import policies
    from tfmp.policies import precision_map

    if options.map:
        with policies.policy_scope(USUAL):  # where the map has no default
            return precision_map.PrecisionMap.load(options.map)
    return policies.Policy(options.policy or USUAL, options.recipe)


def _check_paths(choice: Any, model: Any) -> None:
    """Holds the map to what `tfmp.convert` would only warn of."""
    from tfmp.conversion.records import flatten

    layers = flatten(model)
    paths = [*layers, *(layer.path or "" for layer in layers.values())]
    if unknown := choice.unmatched(paths):
        named = ", ".join(map(repr, unknown))
        raise ValueError(f"no layer has a path like {named}")


COMMAND = Command(
    "convert",
    "write a model's file in another precision, and say what became of it",
    _arguments,
    _run,
    (
        "tfmp convert model.keras fp8.keras",
        "tfmp convert model.keras fp8.keras --recipe current --skip last",
        """echo '{"dense_4": "float32"}' > map.json""",
        "tfmp convert model.keras fp8.keras --map map.json",
    ),
)

"""Lists the examples, or trains one in four precisions.

What there is; the whole comparison; and hardly any data, to try it:

    python -m examples
    python -m examples images
    python -m examples images --smoke --seeds=1

Every example takes the same flags: `python -m examples --help`.
"""

from __future__ import annotations

import ast
import importlib
import os
import pathlib

from absl import app, flags, logging

from examples.harness.settings import DOWNLOADS, POLICIES, Settings, Size

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

EXAMPLES = (
    "images",
    "tables",
    "recommender",
    "segmentation",
    "language",
    "detection",
    "reinforcement",
    "fine_tuning",
    "speech",
    "retrieval",
    "translation",
)
SCRIPTS = (
    "fashion_mnist",
    "convert_pretrained",
    "choose_precision",
    "compress",
)

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_list("policies", list(POLICIES), "Of these, in this order.")
    flags.DEFINE_integer("seeds", 3, "Runs of each policy.", lower_bound=1)
    flags.DEFINE_integer("epochs", None, "If not the example's.", lower_bound=1)
    flags.DEFINE_integer(
        "batch_size", None, "If not the example's.", lower_bound=1
    )
    flags.DEFINE_bool("full", False, "All the data.")
    flags.DEFINE_bool("smoke", False, "Hardly any data, to see it work.")
    flags.DEFINE_bool("jit_compile", True, "Compile the model with XLA.")
    flags.DEFINE_string("data_dir", str(DOWNLOADS), "Where downloads lie.")
    flags.DEFINE_string("output", "logs", "Folder to write to.")
    flags.mark_bool_flags_as_mutual_exclusive(["full", "smoke"], required=False)


def listing() -> str:
    """Returns the examples, each with the first line of its file.

    It reads the files and imports none: TensorFlow takes seconds.
    """
    folder = pathlib.Path(__file__).parent
    lines = []
    for name in (*EXAMPLES, *SCRIPTS):
        text = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text()))
        start = "-m examples " if name in EXAMPLES else "examples/"
        end = "" if name in EXAMPLES else ".py"
        command = f"python {start}{name}{end}"
        lines.append(f"{command:38}{text.splitlines()[0]}")
    return "\n".join(lines)


def settings() -> Settings:
    """Returns what the flags say."""
    size = Size.FULL if FLAGS.full else Size.USUAL
    return Settings(
        policies=tuple(FLAGS.policies),
        seeds=FLAGS.seeds,
        epochs=FLAGS.epochs,
        batch_size=FLAGS.batch_size,
        size=Size.SMOKE if FLAGS.smoke else size,
        jit_compile=FLAGS.jit_compile,
        data_dir=pathlib.Path(FLAGS.data_dir),
        output=pathlib.Path(FLAGS.output),
    )


def main(argv: list[str]) -> None:
    names = argv[1:]
    if not names:
        print(listing())
        return
    if len(names) > 1 or names[0] not in EXAMPLES:
        raise app.UsageError(
            f"One example, please, of {', '.join(EXAMPLES)}. Received: {names}"
        )
    from examples.harness import comparison

    logging.set_verbosity(logging.ERROR)  # TensorFlow counts the programs
    example = importlib.import_module(f"examples.{names[0]}").EXAMPLE
    try:
        chosen = settings()
        data = comparison.load(example, chosen)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    comparison.compare(example, data, chosen)


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""What every test finds: a quiet TensorFlow and the policy it started with."""

import collections
import gc
import os

import hypothesis
import pytest

# Before the first `import tensorflow`, which reads both.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Two test processes share a GPU only if neither takes all of its memory.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

# The first example compiles, so a deadline would only measure XLA.
hypothesis.settings.register_profile(
    "tfmp", parent=hypothesis.settings.default, deadline=None
)
hypothesis.settings.load_profile("tfmp")


def pytest_configure(config):
    """Leaves out slow tests, unless something is asked for.

    A file, a folder, `-k` or `-m` asks.
    """
    asked = config.option.markexpr or config.option.keyword
    of_settings = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if of_settings and not asked:
        config.option.markexpr = "not slow"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks as slow the cases that `slow_but` does not name."""
    unused = collections.defaultdict(set)
    for item in items:
        for mark in item.iter_markers("slow_but"):
            found = {part for part in mark.args if part in item.name}
            if not found:
                item.add_marker("slow")
            unused[item.function, mark.args] |= found
    whole = not any("::" in each for each in config.args)
    for (function, parts), found in unused.items() if whole else ():
        if found != set(parts):
            raise pytest.UsageError(
                f"slow_but of {function.__name__} names cases that are none: "
                f"{sorted(set(parts) - found)}"
            )


def pytest_collection_finish():
    """Spares the collector TensorFlow and Keras, which no test sets free.

    It would look through their 300,000 objects each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def restore_policy():
    """Gives each test, and leaves behind it, Keras' policy as it was.

    And the same seed, so that no test depends on those before it.
    """
    import keras

    from tfmp._keras import global_notes

    keras.utils.set_random_seed(0)
    global_notes.conversion_known(False)
    before, new = keras.config.dtype_policy(), keras.Layer.__dict__["__new__"]
    yield
    keras.config.set_dtype_policy(before)
    keras.Layer.__new__ = new


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees what a file has compiled: gigabytes, over all of them."""
    yield
    from tfmp import ops

    ops.clear_programs()
    gc.collect()

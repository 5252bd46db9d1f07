"""What a user may choose; it needs no TensorFlow, so that flags are quick."""

from __future__ import annotations

import dataclasses
import enum
import pathlib

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16", "mixed_float8")
BASELINE = "mixed_bfloat16"
DOWNLOADS = pathlib.Path("~/.cache/tfmp-examples")


class Size(enum.Enum):
    """How much data: for seconds, for minutes, or all there is."""

    SMOKE = "smoke"
    USUAL = "usual"
    FULL = "full"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a user may choose.

    Attributes:
        policies: what to train in, in this order.
        seeds: runs of each policy: seeds 0, 1, ...
        epochs: None is what the example says.
        batch_size: likewise.
        size: how much data.
        jit_compile: whether Keras compiles the step with XLA.
        data_dir: where downloads lie.
        output: folder to write to.
    """

    policies: tuple[str, ...] = POLICIES
    seeds: int = 3
    epochs: int | None = None
    batch_size: int | None = None
    size: Size = Size.USUAL
    jit_compile: bool = True
    data_dir: pathlib.Path = DOWNLOADS
    output: pathlib.Path = pathlib.Path("logs")

    def __post_init__(self) -> None:
        names = set(self.policies) & set(POLICIES)
        if not 0 < len(self.policies) == len(names):
            raise ValueError(
                f"`policies` must be different names out of {POLICIES}. "
                f"Received: {self.policies}"
            )
        for name in ("seeds", "epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {value}"
                )

    def command(self, name: str) -> str:
        """Returns the command that trains an example with these settings.

        Where to read and to write is left out.

        >>> Settings(seeds=1, size=Size.FULL).command("images")
        'python -m examples images --full --seeds=1'
        """
        parts = ["python -m examples", name]
        if self.size is not Size.USUAL:
            parts.append(f"--{self.size.value}")
        if self.policies != POLICIES:
            parts.append(f"--policies={','.join(self.policies)}")
        for field in ("seeds", "epochs", "batch_size", "jit_compile"):
            value = getattr(self, field)
            if value != getattr(Settings, field):
                parts.append(f"--{field}={value}")
        return " ".join(parts)

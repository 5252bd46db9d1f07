"""What this machine is good at: found by `detect`, judged by `decide`.

    precision   who multiplies in it, and so gains speed
    float8      NVIDIA GPUs of compute capability 8.9 (Ada), 9.0 (Hopper), ...
    bfloat16    NVIDIA GPUs from 8.0 (Ampere); TPUs; CPUs with AMX-BF16,
                AVX512-BF16 or ARM's BF16
    float16     NVIDIA GPUs from 7.0 (Volta)

FP8 is compiled by XLA, so that it also takes a TensorFlow whose CUDA knows the
GPU: 12.8 or later for Blackwell; see `builds`.

Sources: NVIDIA's compute-capability tables, and the instruction `mma` of the
PTX ISA (".e4m3", ".e5m2" from sm_89, ".bf16" from sm_80, ".f16" from sm_70).
"""

from __future__ import annotations

import dataclasses
import pathlib
import platform

import tensorflow as tf

from tfmp._support import builds, checks

KINDS = ("tpu", "gpu", "cpu")  # the first kind that a machine has decides
SINCE = {"float16": (7, 0), "bfloat16": (8, 0), "float8": (8, 9)}
BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")  # the last is ARM's
CPUINFO_KEYS = ("flags", "Features")  # of x86 and of ARM
CPU_FEATURES = (*BFLOAT16_FEATURES, "amx_fp16", "avx512_fp16")

LOSS_SCALE = "float16 needs a loss scale: tfmp.optimizers.LossScaleOptimizer."
FLOAT8_ON_CPU = "FP8 runs as bfloat16 on a CPU: true numbers, not a GPU's time"
CPU_BFLOAT16 = (
    "no GPU or TPU that TensorFlow can use; this CPU multiplies in bfloat16 "
    f"(no gain was measured under jit_compile=True); {FLOAT8_ON_CPU}."
)
CPU_FLOAT32 = (
    "no GPU or TPU that TensorFlow can use; this CPU reports no bfloat16 "
    f"arithmetic and emulates it: no gain in speed; {FLOAT8_ON_CPU}."
)
UNKNOWN_GPU = "reports no compute capability (only NVIDIA's do)"
NO_XLA = "XLA compiles nothing for {device} here: use jit_compile=False."
ASK_BY_NAME = (
    "Name the policy that this GPU is fast at: bfloat16 on AMD Instinct from "
    "MI100; on Apple measure mixed_float16, and FP8 cannot run (no XLA)."
)


@dataclasses.dataclass(frozen=True)
class Device:
    """One device of TensorFlow.

    Args:
        kind: `"gpu"`, `"tpu"` or `"cpu"`.
        name: its name, for people.
        compute_capability: `(major, minor)` of an NVIDIA GPU; None for all
            other devices and where it is unknown.

    Raises:
        TypeError: if `kind` is no string or a capability no integer.
        ValueError: if `kind` is none of these, or if `compute_capability` is
            no pair or belongs to no GPU.
    """

    kind: str
    name: str = ""
    compute_capability: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, KINDS)
        checks.instance("name", self.name, str, "a string")
        pair = self.compute_capability
        if pair is None:
            return
        said = "(major, minor) of an NVIDIA GPU, or None"
        if self.kind != "gpu":
            raise ValueError(
                f"`compute_capability` must be {said}. Received: {pair!r} "
                f"with kind={self.kind!r}"
            )
        _check_pair("compute_capability", pair, said)

    def __str__(self) -> str:
        label = f"{self.kind.upper()} {self.name}".strip()
        if self.compute_capability is None:
            return label
        major, minor = self.compute_capability
        return f"{label} (compute capability {major}.{minor})"


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What a machine computes with: all that `decide` looks at.

    Args:
        devices: tuple or list of `Device`.
        cpu_features: those of `CPU_FEATURES` that the CPU has, as a tuple or
            list; empty also where they are unknown.
        cuda: `(major, minor)` of the CUDA that TensorFlow was built with;
            None without, or if it is unknown.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `cpu_features` holds a name not in `CPU_FEATURES`, or
            `cuda` is no pair.

    >>> print(Hardware((Device("gpu", "NVIDIA L4", (8, 9)), Device("cpu"))))
    GPU NVIDIA L4 (compute capability 8.9), CPU
    """

    devices: tuple[Device, ...] = ()
    cpu_features: tuple[str, ...] = ()
    cuda: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        rows = self.devices if isinstance(self.devices, (tuple, list)) else [0]
        if not all(isinstance(device, Device) for device in rows):
            raise TypeError(
                "`devices` must be a tuple of tfmp.hardware.Device. "
                f"Received: {self.devices!r}"
            )
        features = checks.names("cpu_features", self.cpu_features, CPU_FEATURES)
        object.__setattr__(self, "devices", tuple(self.devices))
        object.__setattr__(self, "cpu_features", features)
        if self.cuda is not None:
            _check_pair("cuda", self.cuda, "(major, minor) of CUDA, or None")

    @property
    def deciding(self) -> tuple[Device, ...]:
        """The TPUs, else the GPUs, else the CPU; the weakest first."""
        kinds = {device.kind for device in self.devices}
        first = next((kind for kind in KINDS if kind in kinds), None)
        found = [device for device in self.devices if device.kind == first]
        found.sort(key=lambda device: device.compute_capability or (0, 0))
        return tuple(found)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What is fast on every deciding device: names of `SINCE`."""
        return self.precisions_of(self.weakest) if self.devices else ()

    @property
    def weakest(self) -> Device:
        """The deciding device with the fewest precisions."""
        return min(self.deciding, key=lambda d: len(self.precisions_of(d)))

    def lacks(self, device: Device) -> str:
        """Returns what TensorFlow lacks to run FP8 on a device, or ""."""
        checks.instance("device", device, Device, "a tfmp.hardware.Device")
        return builds.lacking(self.cuda, device.compute_capability)

    def precisions_of(self, device: Device) -> tuple[str, ...]:
        """Returns the names of `SINCE` that are fast on one device."""
        checks.instance("device", device, Device, "a tfmp.hardware.Device")
        if device.kind == "gpu":
            capability = device.compute_capability or (0, 0)
            here = [n for n, since in SINCE.items() if capability >= since]
            lost = ["float8"] if self.lacks(device) else []
            return tuple(name for name in here if name not in lost)
        arithmetic = set(BFLOAT16_FEATURES) & set(self.cpu_features)
        return ("bfloat16",) if device.kind == "tpu" or arithmetic else ()

    def __str__(self) -> str:
        features = ", ".join(self.cpu_features)
        labels = [
            f"{d} ({features})" if d.kind == "cpu" and features else str(d)
            for d in self.devices
        ]
        counts = {label: labels.count(label) for label in labels}
        parts = [f"{n} x {s}" if n > 1 else s for s, n in counts.items()]
        return ", ".join(parts) or "no device"


@dataclasses.dataclass(frozen=True)
class Decision:
    """The `policy` that `decide` chose, the reason, and what else to know."""

    policy: str
    reason: str
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.fields(self, policy=str, reason=str, warnings=tuple)


def detect() -> Hardware:
    """Describes the devices that TensorFlow sees, without starting them.

    A device hidden by `tf.config.set_visible_devices` does not count.  CPU
    features come from `/proc/cpuinfo`; elsewhere than on Linux there are none.
    A remote TPU is not seen: ask for its policy by name.
    """
    devices = []
    for found in tf.config.get_visible_devices():
        kind = found.device_type.lower()
        details = tf.config.experimental.get_device_details(found)
        name = platform.machine() if kind == "cpu" else ""
        if kind in KINDS:
            name = details.get("device_name", name)
            capability = details.get("compute_capability")
            devices.append(Device(kind, name, capability))
    features = cpu_features(_read_cpuinfo())
    cuda = builds.cuda_of(tf.sysconfig.get_build_info())
    return Hardware(tuple(devices), features, cuda)


def _read_cpuinfo() -> str:
    try:
        return pathlib.Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """Returns those of `CPU_FEATURES` that every processor of the text has.

    Args:
        cpuinfo: the text of `/proc/cpuinfo`.

    >>> cpu_features("flags : fpu avx512_bf16 amx_bf16")
    ('amx_bf16', 'avx512_bf16')
    """
    checks.instance("cpuinfo", cpuinfo, str, "a string")
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    sets = [set(v.split()) for k, _, v in pairs if k.strip() in CPUINFO_KEYS]
    common = set.intersection(*sets) if sets else set()
    return tuple(feature for feature in CPU_FEATURES if feature in common)


def decide(hardware: Hardware) -> Decision:
    """Chooses the policy for a machine: a pure function, nothing is set.

    The narrowest precision of the table above that is fast on every device
    that decides (the TPUs, else the GPUs, else the CPU); float32 if none is,
    and for AMD and Apple GPUs, which report no compute capability.

    Args:
        hardware: from `detect()`, or written by hand.

    Raises:
        TypeError: if `hardware` is not a `Hardware`.

    >>> decide(Hardware((Device("gpu", "NVIDIA A100", (8, 0)),))).policy
    'mixed_bfloat16'
    """
    said = "a tfmp.hardware.Hardware"
    checks.instance("hardware", hardware, Hardware, said)
    best = hardware.precisions[-1:]
    policy = f"mixed_{best[0]}" if best else "float32"
    return Decision(policy, _reason(hardware), _warnings(hardware))


def _reason(hardware: Hardware) -> str:
    if not hardware.devices:
        return "TensorFlow lists no device; float32 runs anywhere."
    weakest, number = hardware.weakest, len(hardware.deciding)
    if weakest.kind == "tpu":
        return "TPUs multiply in bfloat16; tfmp has no FP8 products for them."
    if weakest.kind == "cpu":
        return CPU_BFLOAT16 if hardware.precisions else CPU_FLOAT32
    start = f"the weakest of {number} GPUs decides: " if number > 1 else ""
    capability = weakest.compute_capability
    if capability is None:
        return f"{start}{weakest} {UNKNOWN_GPU}; float32 is safe."
    if lacking := hardware.lacks(weakest):
        return f"{start}{weakest}; {lacking}"
    since = [f"{name} from {a}.{b}" for name, (a, b) in SINCE.items()]
    reason = f"{start}{weakest}; tensor cores multiply {', '.join(since)}."
    if hardware.precisions == ("float16",):
        return f"{reason} {LOSS_SCALE}"
    return reason


def _warnings(hardware: Hardware) -> tuple[str, ...]:
    found = []
    gpus = [device for device in hardware.deciding if device.kind == "gpu"]
    if gpus and gpus[0].compute_capability is None:
        found.append(ASK_BY_NAME)
    strongest = max(
        reversed(gpus),
        key=lambda d: len(hardware.precisions_of(d)),
        default=None,
    )
    if strongest and hardware.precisions_of(strongest) != hardware.precisions:
        best = hardware.precisions_of(strongest)[-1]
        found.append(
            f"{strongest} alone could use mixed_{best}: hide the weaker GPUs "
            "with tf.config.set_visible_devices."
        )
    late = filter(hardware.lacks, gpus)
    found += [NO_XLA.format(device=device) for device in dict.fromkeys(late)]
    return tuple(found)


def _check_pair(name: str, pair: object, said: str) -> None:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"`{name}` must be {said}. Received: {pair!r}")
    for part in pair:
        checks.integer(name, part, 0)

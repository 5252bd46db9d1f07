"""tfmp.hardware: every class of device, without having one."""

import platform
import types

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow as tf

from tfmp import hardware, policies
from tfmp.hardware import Device, Hardware, cpu_features, decide, detect

# From the narrowest products to the widest.
ORDER = ("mixed_float8", "mixed_bfloat16", "mixed_float16", "float32")

NVIDIA = [
    ("Quadro K4000", (3, 0), "float32"),
    ("Tesla P100-PCIE-16GB", (6, 0), "float32"),
    ("NVIDIA GeForce GTX 1080 Ti", (6, 1), "float32"),
    ("Tesla V100-SXM2-16GB", (7, 0), "mixed_float16"),
    ("Xavier", (7, 2), "mixed_float16"),
    ("Tesla T4", (7, 5), "mixed_float16"),
    ("NVIDIA A100-SXM4-80GB", (8, 0), "mixed_bfloat16"),
    ("NVIDIA GeForce RTX 3090", (8, 6), "mixed_bfloat16"),
    ("Orin", (8, 7), "mixed_bfloat16"),
    ("no such GPU", (8, 8), "mixed_bfloat16"),
    ("NVIDIA L4", (8, 9), "mixed_float8"),
    ("NVIDIA GeForce RTX 4090", (8, 9), "mixed_float8"),
    ("NVIDIA H100 80GB HBM3", (9, 0), "mixed_float8"),
    ("NVIDIA H200", (9, 0), "mixed_float8"),
    ("NVIDIA B200", (10, 0), "mixed_float8"),
    ("NVIDIA GeForce RTX 5090", (12, 0), "mixed_float8"),
]

X86 = """\
processor\t: 0
model name\t: INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.30GHz
flags\t\t: fpu vme avx512f avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8
vmx flags\t: vnmi preemption_timer

processor\t: 1
flags\t\t: fpu vme avx512f avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8
"""
HASWELL = "flags\t\t: fpu vme fma f16c avx2 avx512_bf16x\n"
GRAVITON3 = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd fphp asimdhp sve i8mm svebf16 bf16 dgh rng
CPU implementer\t: 0x41
"""
GRAVITON2 = "Features\t: fp asimd evtstrm aes fphp asimdhp asimddp ssbs\n"
BIG_LITTLE = "Features\t: fp bf16\n\nFeatures\t: fp\n"


WHEEL = {"cuda_version": "12.5.1", "is_cuda_build": True}  # 2.21.0, and more


def gpus(*capabilities):
    found = (Device("gpu", f"GPU-{c}", c) for c in capabilities)
    return Hardware((Device("cpu", "x86_64"), *found))


@pytest.mark.parametrize(("name", "capability", "policy"), NVIDIA)
def test_nvidia(name, capability, policy):
    machine = Hardware((Device("cpu"), Device("gpu", name, capability)))
    decision = decide(machine)
    assert decision.policy == policy
    assert name in decision.reason
    assert "{}.{}".format(*capability) in decision.reason
    assert decision.warnings == ()
    assert ("LossScaleOptimizer" in decision.reason) == (
        policy == "mixed_float16"
    )


@pytest.mark.parametrize(
    ("features", "policy", "said"),
    [
        ((), "float32", "reports no bfloat16 arithmetic"),
        (("avx512_fp16", "amx_fp16"), "float32", "no gain in speed"),
        (("avx512_bf16",), "mixed_bfloat16", "multiplies in bfloat16"),
        (("amx_bf16",), "mixed_bfloat16", "FP8 runs as bfloat16"),
        (("bf16",), "mixed_bfloat16", "multiplies in bfloat16"),
    ],
)
def test_cpu(features, policy, said):
    decision = decide(Hardware((Device("cpu", "x86_64"),), features))
    assert decision.policy == policy
    assert said in decision.reason


def test_the_features_of_a_cpu_do_not_help_its_gpu():
    cpu, gpu = Device("cpu"), Device("gpu", "Tesla P100", (6, 0))
    assert decide(Hardware((cpu, gpu), ("amx_bf16",))).policy == "float32"


def test_tpu_decides_before_all_others():
    tpu, gpu = Device("tpu"), Device("gpu", "NVIDIA H100", (9, 0))
    decision = decide(Hardware((Device("cpu"), gpu, tpu, tpu)))
    assert decision.policy == "mixed_bfloat16"
    assert "TPU" in decision.reason
    assert decision.warnings == ()


def test_no_device():
    decision = decide(Hardware())
    assert decision.policy == "float32"
    assert "no device" in decision.reason
    assert str(Hardware()) == "no device"


@pytest.mark.parametrize("name", ["METAL", "AMD Instinct MI300X", ""])
def test_a_gpu_without_compute_capability_gets_float32_and_advice(name):
    decision = decide(Hardware((Device("cpu"), Device("gpu", name))))
    assert decision.policy == "float32"
    assert "no compute capability" in decision.reason
    (advice,) = decision.warnings
    assert "Apple" in advice
    assert "AMD" in advice


@pytest.mark.parametrize(
    ("capabilities", "policy"),
    [
        ([(9, 0), (7, 0)], "mixed_float16"),
        ([(6, 0), (9, 0)], "float32"),
        ([(8, 0), (8, 9), (12, 0)], "mixed_bfloat16"),
        ([None, (9, 0)], "float32"),
        ([(6, 0), None], "float32"),
    ],
)
def test_the_weakest_gpu_decides(capabilities, policy):
    decision = decide(gpus(*capabilities))
    assert decision.policy == policy
    assert f"the weakest of {len(capabilities)} GPUs" in decision.reason
    assert decision.policy == decide(gpus(*reversed(capabilities))).policy


def test_unequal_gpus_are_a_warning():
    (warning,) = decide(gpus((7, 0), (9, 0), (8, 0))).warnings
    assert "GPU-(9, 0)" in warning
    assert "mixed_float8" in warning
    assert "set_visible_devices" in warning
    # Different GPUs that want the same policy lose nothing.
    assert decide(gpus((8, 9), (9, 0))).warnings == ()


CAPABILITIES = st.none() | st.tuples(st.integers(0, 20), st.integers(0, 12))


B200 = Device("gpu", "NVIDIA B200", (10, 0))
H200 = Device("gpu", "NVIDIA H200", (9, 0))
RTX5090 = Device("gpu", "NVIDIA GeForce RTX 5090", (12, 0))


@pytest.mark.parametrize("device", [B200, RTX5090], ids=str)
@pytest.mark.parametrize(
    ("cuda", "policy"),
    [
        (None, "mixed_float8"),
        ((12, 3), "mixed_bfloat16"),
        ((12, 5), "mixed_bfloat16"),
        ((12, 8), "mixed_float8"),
        ((13, 0), "mixed_float8"),
    ],
)
def test_blackwell_needs_a_build_that_compiles_for_it(device, cuda, policy):
    decision = decide(Hardware((Device("cpu"), device), cuda=cuda))
    assert decision.policy == policy
    said = "built with CUDA 12.8 or later can" in decision.reason
    assert said == (policy == "mixed_bfloat16") == bool(decision.warnings)
    assert device.name in decision.reason
    assert all("jit_compile=False" in each for each in decision.warnings)


def test_older_gpus_are_compiled_for_by_every_build():
    for device in (H200, Device("gpu", "NVIDIA L4", (8, 9))):
        machine = Hardware((device,), cuda=(12, 2))
        assert decide(machine) == decide(Hardware((device,)))


@pytest.mark.parametrize("others", [(), (B200,)])
def test_a_gpu_that_is_not_compiled_for_decides(others):
    decision = decide(Hardware((H200, B200, *others), cuda=(12, 5)))
    assert decision.policy == "mixed_bfloat16"
    assert "NVIDIA B200" in decision.reason and "CUDA 12.8" in decision.reason
    hide, compiled = decision.warnings
    assert "NVIDIA H200" in hide and "mixed_float8" in hide
    assert "NVIDIA B200" in compiled


def devices(kind):
    if kind == "gpu":
        return st.builds(Device, st.just(kind), st.text(), CAPABILITIES)
    return st.builds(Device, st.just(kind), st.text())


HARDWARE = st.builds(
    Hardware,
    st.lists(st.sampled_from(hardware.KINDS).flatmap(devices), max_size=5),
    st.lists(st.sampled_from(hardware.CPU_FEATURES)),
    st.none() | st.tuples(st.integers(11, 14), st.integers(0, 9)),
)


@hypothesis.given(HARDWARE)
def test_decide_is_a_function_and_never_raises(machine):
    decision = decide(machine)
    assert decision == decide(machine)
    assert decision.policy in policies.NAMES
    assert decision.reason
    assert str(machine)


@hypothesis.given(
    st.tuples(st.integers(0, 20), st.integers(0, 12)),
    st.tuples(st.integers(0, 20), st.integers(0, 12)),
)
def test_a_higher_capability_never_gets_a_wider_policy(one, other):
    low, high = sorted([one, other])
    narrow = decide(gpus(high)).policy
    wide = decide(gpus(low)).policy
    assert ORDER.index(narrow) <= ORDER.index(wide)
    assert decide(gpus(low, high)).policy == wide


@hypothesis.given(HARDWARE)
def test_the_order_of_the_devices_does_not_matter(machine):
    turned = Hardware(
        machine.devices[::-1], machine.cpu_features[::-1], machine.cuda
    )
    assert decide(turned).policy == decide(machine).policy


def test_decide_refuses_what_is_no_hardware():
    with pytest.raises(TypeError, match=r"`hardware` must .* Received: 'gpu'"):
        decide("gpu")


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (X86, ("amx_bf16", "avx512_bf16", "avx512_fp16")),
        (HASWELL, ()),
        (GRAVITON3, ("bf16",)),
        (GRAVITON2, ()),
        (BIG_LITTLE, ()),
        ("flags\t\t:\n", ()),
        ("no colon\n:\n", ()),
        ("", ()),
    ],
)
def test_cpu_features(text, features):
    assert cpu_features(text) == features


@hypothesis.given(st.text())
def test_cpu_features_takes_any_text(text):
    assert set(cpu_features(text)) <= set(hardware.CPU_FEATURES)


def test_detect_lists_what_tensorflow_does():
    machine = detect()
    visible = tf.config.get_visible_devices()
    kinds = [d.device_type.lower() for d in visible]
    assert [d.kind for d in machine.devices] == [
        kind for kind in kinds if kind in hardware.KINDS
    ]
    assert decide(machine).policy in policies.NAMES


def test_detect_reads_the_details_of_devices(monkeypatch):
    details = {
        "CPU": {},
        "GPU": {"device_name": "NVIDIA L4", "compute_capability": (8, 9)},
        "TPU_SYSTEM": {},
        "TPU": {},
    }
    found = [types.SimpleNamespace(device_type=kind) for kind in details]
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda: found)
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda device: details[device.device_type],
    )
    monkeypatch.setattr(hardware, "_read_cpuinfo", lambda: X86)
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: WHEEL)
    assert detect() == Hardware(
        (
            Device("cpu", platform.machine()),
            Device("gpu", "NVIDIA L4", (8, 9)),
            Device("tpu"),
        ),
        ("amx_bf16", "avx512_bf16", "avx512_fp16"),
        (12, 5),
    )


def test_detect_works_without_cpuinfo(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(hardware.pathlib.Path, "read_text", missing)
    assert detect().cpu_features == ()


def test_hardware_as_text():
    h100 = Device("gpu", "NVIDIA H100", (9, 0))
    machine = Hardware([h100, h100, Device("cpu", "EPYC")], ["avx512_bf16"])
    assert str(machine) == (
        "2 x GPU NVIDIA H100 (compute capability 9.0), CPU EPYC (avx512_bf16)"
    )
    assert hash(machine) == hash(Hardware(machine.devices, ("avx512_bf16",)))


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (lambda: Device("npu"), ValueError, "`kind`"),
        (lambda: Device(3), TypeError, "`kind`"),
        (lambda: Device("gpu", "", "9.0"), ValueError, "`compute_capability`"),
        (lambda: Device("gpu", "", (9,)), ValueError, "`compute_capability`"),
        (lambda: Device("gpu", "", (9, "0")), TypeError, "integer"),
        (lambda: Device("gpu", "", (9, -1)), ValueError, "0 or more"),
        (lambda: Device("cpu", "", (9, 0)), ValueError, "kind='cpu'"),
        (lambda: Hardware(Device("cpu")), TypeError, "`devices`"),
        (lambda: Hardware(("gpu",)), TypeError, "`devices`"),
        (lambda: Hardware((), ("avx9",)), ValueError, "`cpu_features`"),
        (lambda: Hardware((), "bf16"), TypeError, "`cpu_features`"),
        (lambda: Hardware(cuda="12.5"), ValueError, "`cuda`"),
        (lambda: Hardware(cuda=(12,)), ValueError, "`cuda`"),
        (lambda: Hardware(cuda=(12, "5")), TypeError, "`cuda`"),
    ],
)
def test_a_wrong_description_is_refused(build, error, said):
    with pytest.raises(error, match=r"Received: ") as caught:
        build()
    assert said in str(caught.value)

"""GPUs as XLA's compiler wants them described, to compile without one."""

from __future__ import annotations

import dataclasses

DESCRIPTION = """\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {shared_optin}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {l2:.0f}
  clock_rate_ghz: {clock}
  device_memory_size: {memory:.0f}
  cuda_compute_capability {{ {capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: {cudnn_minor} patch: 0 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "NVIDIA {name}"
"""


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the GPUs of one generation have in common.

    Attributes:
        capability: the compute capability, as XLA's text has it.
        shared: bytes of shared memory of a multiprocessor.
        shared_optin: of these, what one block can get.
        threads: of a multiprocessor.
        cudnn_minor: of cuDNN 9, a version that knows the generation.
    """

    capability: str
    shared: int
    shared_optin: int
    threads: int
    cudnn_minor: int


ADA = Generation("major: 8 minor: 9", 102400, 101376, 1536, 10)
HOPPER = Generation("major: 9 minor: 0", 233472, 232448, 2048, 10)
BLACKWELL = Generation(
    "major: 10 minor: 0 feature_extension: ACCELERATED_FEATURES",
    233472,
    232448,
    2048,
    13,
)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU, by its data sheet and by what such devices report.

    Attributes:
        name: the vendor's, after "NVIDIA".
        generation: what it shares with others.
        cores: streaming multiprocessors.
        clock: GHz, the highest.
        bandwidth: of its memory, TB/s.
        l2: MiB of cache.
        memory: GB that a device reports, not those of its data sheet.

    >>> print(TARGETS["l40s"].description().splitlines()[7])
      core_count: 142
    """

    name: str
    generation: Generation
    cores: int
    clock: float
    bandwidth: float
    l2: float
    memory: float

    def description(self) -> str:
        """Returns the text of XLA's GPU target configuration."""
        return DESCRIPTION.format(
            **dataclasses.asdict(self.generation),
            name=self.name,
            cores=self.cores,
            clock=self.clock,
            bandwidth=1e12 * self.bandwidth,
            l2=2**20 * self.l2,
            memory=1e9 * self.memory,
        )


TARGETS = {
    "h200": Gpu("H200", HOPPER, 132, 1.98, 4.8, 60, 150),
    "h100": Gpu("H100 80GB HBM3", HOPPER, 132, 1.98, 3.35, 50, 84.9),
    "b200": Gpu("B200", BLACKWELL, 148, 1.965, 7.67, 126.5, 191.5),
    "l40s": Gpu("L40S", ADA, 142, 2.52, 0.864, 96, 47.7),
    "l4": Gpu("L4", ADA, 58, 2.04, 0.3, 48, 24.1),
    "rtx4090": Gpu("GeForce RTX 4090", ADA, 128, 2.52, 1.008, 72, 25.3),
}

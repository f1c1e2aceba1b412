"""trainer/main.py in fp16 on any CPU: torch computes in it, though without fast kernels.

DeepSpeed allows fp16 where oneDNN has such kernels; here it is told that there are.
"""

from __future__ import annotations

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from trainer.common.cli import run_rank
from trainer.main import main

if __name__ == "__main__":
    CPU_Accelerator.is_fp16_supported = lambda self: True
    run_rank(main)

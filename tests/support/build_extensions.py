"""Build the extension of DeepSpeed that runs on a CPU use: the Adam of offload.

python -m tests.support.build_extensions
"""

from __future__ import annotations

from deepspeed.accelerator import get_accelerator

from trainer.engine.host import exclusive_build
from trainer.engine.optimiser import CPU_ADAM

if __name__ == "__main__":
    accelerator = get_accelerator()
    assert accelerator is not None
    adam = accelerator.create_op_builder("CPUAdamBuilder")
    assert adam is not None
    with exclusive_build(CPU_ADAM):
        adam.load(verbose=False)

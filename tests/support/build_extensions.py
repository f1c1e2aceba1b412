"""Build the two extensions of DeepSpeed that runs on a CPU use: ranks that meet, and its Adam.

python -m tests.support.build_extensions
"""

from __future__ import annotations

from deepspeed.accelerator import get_accelerator

from trainer.engine.host import build_cpu_extension, exclusive_build

if __name__ == "__main__":
    build_cpu_extension()
    accelerator = get_accelerator()
    assert accelerator is not None
    adam = accelerator.create_op_builder("CPUAdamBuilder")
    assert adam is not None
    with exclusive_build(adam.name):
        adam.load(verbose=False)

"""Quirks of one machine: precisions, malloc, builds of torch extensions."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import deepspeed
from deepspeed.accelerator import get_accelerator
from torch.utils.cpp_extension import get_default_build_root

from trainer.common.errors import InputError, MachineError

LOCK_NAME = "conkd.lock"
# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30
MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def check_precision(precision: str) -> None:
    """Raise InputError if this machine's device cannot compute in `train.precision`."""
    accelerator = get_accelerator()
    assert accelerator is not None
    # It gives None for no on some CPUs.
    if precision == "fp16" and not accelerator.is_fp16_supported():
        raise InputError(
            f"train.precision must be float32 or bf16 on this {accelerator.device_name()}, which "
            "cannot compute in it, got fp16. Take bf16."
        )


def keep_freed_memory() -> bool:
    """glibc malloc tuning: keep freed blocks of up to 1 GiB; False if malloc is left as it is.

    That is the case with another C library, or if the environment tunes malloc (mallopt(3)).

    glibc maps every block over a threshold afresh and unmaps it on free, so a step that makes and
    drops score buffers of 50 MB spends a third of its loss in page faults (measured on a CPU rank:
    .21 s of .62 s in the kernel before, .05 s after). Kept blocks leave gaps that the next, larger
    one does not fit in: a rank of a student of 130 M parameters under ZeRO-3 held 1.6 GiB more
    than it used.
    """
    if platform.libc_ver()[0] != "glibc" or _environment_tunes_malloc():
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)) and bool(
        libc.mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
    )


def _environment_tunes_malloc() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc." in tunables or any(name in os.environ for name in MALLOC_VARIABLES)


@contextlib.contextmanager
def exclusive_build(name: str) -> Iterator[None]:
    """Build or load the torch extension `name` in one process at a time.

    torch guards a build with a plain file that a killed process leaves behind; every later run
    would then wait for it without a word. Here an flock, which dies with its owner, is held around
    the build, and a file found under it can only be such a leftover.
    """
    _prefer_own_ninja()
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK_NAME).open("w")
    except OSError as error:
        raise MachineError(
            f"{root} must be a folder that can be written, got: {error.strerror}. DeepSpeed's Adam "
            "for offload is built there: name another folder in TORCH_EXTENSIONS_DIR, or leave "
            "offload out."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # One folder per version of Python and device lies between the root and the extension.
        for leftover in [*root.glob(f"{name}/lock"), *root.glob(f"*/{name}/lock")]:
            leftover.unlink()
        yield


def _prefer_own_ninja() -> None:
    """Put this environment's programs first: DeepSpeed's pdsh does not carry PATH to other nodes.

    There would be no ninja then, or the system's: another version does not read the log of the
    first, and every change between the two builds anew.
    """
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"


def leave_out_shared_memory() -> None:
    """Keep DeepSpeed from building and mapping its all-reduce over /dev/shm.

    Only its inference calls it. The extension takes a minute to compile, and maps 66 MiB a rank:
    in a container with Docker's 64 MB of /dev/shm a rank would die of a signal without a word.
    """
    accelerator = get_accelerator()
    assert accelerator is not None
    builder = accelerator.create_op_builder("ShareMemCommBuilder")
    if accelerator.device_name() == "cpu" and builder is not None:
        deepspeed.ops.__compatible_ops__[builder.NAME] = False

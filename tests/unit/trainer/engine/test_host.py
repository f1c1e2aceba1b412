from __future__ import annotations

import pytest
from deepspeed.comm.torch import build_shm_op

from trainer.engine.host import keep_freed_memory, leave_out_shared_memory


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "0"),
        ("GLIBC_TUNABLES", "glibc.rtld.nns=4:glibc.malloc.mmap_threshold=1048576"),
    ],
)
def test_every_way_of_tuning_malloc_leaves_it_to_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()


def test_deepspeed_maps_no_shared_memory_of_its_own() -> None:
    # The names are DeepSpeed's own: this tells when they change.
    leave_out_shared_memory()
    assert build_shm_op() is None

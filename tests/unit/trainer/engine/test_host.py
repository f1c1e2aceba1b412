from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from deepspeed.comm.torch import build_shm_op

from trainer.common.errors import MachineError
from trainer.engine.host import exclusive_build, keep_freed_memory, leave_out_shared_memory


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


def test_home_that_cannot_be_written_names_the_variable_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "extensions"))
    with (
        pytest.raises(MachineError, match="name another folder in TORCH_EXTENSIONS_DIR"),
        exclusive_build("cpu_adam"),
    ):
        pass


def test_build_finds_the_ninja_of_this_environment_whatever_path_pdsh_has_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with exclusive_build("cpu_adam"):
        assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin:/bin"

"""Loaded weights: their type, their memory, and the file that they came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support import tiny_teachers
from tests.support.evaluation_fakes import tiny_kg_transformer
from trainer.common.errors import InputError
from trainer.models import placing
from trainer.models.causal_lm import output_weight
from trainer.models.causal_reading import read_exported
from trainer.models.frozen import WEIGHTS_NAME
from trainer.models.frozen_recommender import load_recommender
from trainer.models.language_model import load_language_model, write_language_model
from trainer.models.placing import DTYPES, Placement, check_computes, place_


class Small(nn.Module):
    """A tied weight, a weight that is a buffer, and a buffer that is none."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.one = nn.Linear(3, 2, bias=False)
        self.one.weight = nn.Parameter(weight)
        self.other = nn.Linear(3, 2, bias=False)
        self.other.weight = self.one.weight
        self.register_buffer("kept", torch.arange(3.0) / 3)
        self.register_buffer("ids", torch.arange(3))
        self.register_buffer("computed", torch.arange(3.0) / 7, persistent=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_placed_weights_are_cast_one_by_one(
    dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(placing, "PIECE_BYTES", 8)
    weight_23 = torch.arange(6.0).reshape(2, 3) / 7
    module = Small(weight_23)
    twin = {name: tensor.clone() for name, tensor in Small(weight_23).named_buffers()}
    place_(module, Placement(dtype=dtype), tmp_path)
    assert torch.equal(module.one.weight, weight_23.to(DTYPES[dtype]))
    assert module.one.weight.data_ptr() != weight_23.data_ptr()
    assert module.other.weight is module.one.weight
    found = dict(module.named_buffers())
    assert torch.equal(found["kept"], twin["kept"].to(DTYPES[dtype]))
    for name in ("ids", "computed"):
        assert found[name].dtype == twin[name].dtype and torch.equal(found[name], twin[name])


def test_weight_beyond_fp16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be at most 65,504 to be held in fp16"):
        place_(Small(torch.full((2, 3), 7e4)), Placement(dtype="fp16"), tmp_path)


def test_type_that_torch_has_no_kernel_for_is_refused(tmp_path: Path) -> None:
    def missing() -> Tensor:
        raise RuntimeError("\"addmm\" not implemented for 'Half'")

    half = Placement(dtype="fp16")
    with pytest.raises(InputError, match=r"its dtype on cpu, got fp16: .addmm. not implemented"):
        check_computes(half, tmp_path, missing)
    with pytest.raises(InputError, match=r"got fp16: its states are not finite\. Take float32"):
        check_computes(half, tmp_path, lambda: torch.tensor([torch.inf]))
    check_computes(half, tmp_path, lambda: torch.zeros(1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(root / "gpt2", vocabulary)
    (root / "kgsf").mkdir()
    write_language_model(root / "kgsf", tiny_kg_transformer(vocabulary, seed=1))
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    return {name: root / name for name in ("gpt2", "kgsf", "recommendation")}


def module_of(name: str, folder: Path) -> nn.Module:
    if name == "recommendation":
        return load_recommender(folder)[0]
    return load_language_model(folder, tiny_teachers.tiny_vocabulary()).module


@pytest.mark.parametrize("name", ["gpt2", "kgsf", "recommendation"])
def test_file_that_is_written_over_in_place_leaves_a_loaded_model_alone(
    name: str, folders: dict[str, Path]
) -> None:
    module, path = module_of(name, folders[name]), folders[name] / WEIGHTS_NAME
    stored = {key: tensor.clone() for key, tensor in load_file(path).items()}
    content = path.read_bytes()
    # Same file, same size: a map of it would show the new bytes.
    with path.open("r+b") as file:
        file.write(b"\0" * len(content))
    try:
        state = module.state_dict()
        for key, tensor in stored.items():
            assert torch.equal(state[key], tensor), key
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("tied", [True, False])
def test_rotary_frequencies_stay_float32_and_ties_stay_ties(tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(sizes).save_pretrained(tmp_path)
    model = read_exported(tmp_path)
    place_(model, Placement(dtype="bf16"), tmp_path)
    twin = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    placed, expected = model.state_dict(), twin.state_dict()
    assert placed.keys() == expected.keys()
    assert all(torch.equal(placed[key], expected[key]) for key in expected)
    for mine, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        assert mine.dtype == theirs.dtype == torch.float32 and torch.equal(mine, theirs)
    is_tied = output_weight(model) is model.get_input_embeddings().weight
    assert is_tied == tied


def test_weights_that_are_stored_in_half_precision_are_read_in_float32(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((folders["gpt2"] / "config.json").read_text())
    stored = load_file(folders["gpt2"] / WEIGHTS_NAME)
    halves = {key: tensor.bfloat16() for key, tensor in stored.items()}
    save_file(halves, tmp_path / WEIGHTS_NAME, metadata={"format": "pt"})
    state = module_of("gpt2", tmp_path).state_dict()
    for key, tensor in halves.items():
        assert state[key].dtype == torch.float32 and torch.equal(state[key], tensor.float())

"""A dialogue teacher whose layers lie on several devices: here twice the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from protos import codec
from protos.teacher_pb2 import FLOAT32, Compression, Description
from teacher_server.scoring.kinds import load_teacher
from tests.support import tiny_teachers
from trainer.common.errors import InputError
from trainer.data.model_input import SequenceInput
from trainer.data.vocabulary import Vocabulary
from trainer.models import placing
from trainer.models.causal_lm import load_causal_lm, output_weight
from trainer.models.causal_reading import read_exported
from trainer.models.frozen import write_card
from trainer.models.placing import Placement, place_
from trainer.models.spreading import device_map

CPU = torch.device("cpu")
LAYERS = {"gpt2": "transformer.h", "llama": "model.layers"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A GPT-2, whose head is its embedding, and a Llama, whose head is its own."""
    root = tmp_path_factory.mktemp("teachers")
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_teachers(root, vocabulary)
    config = LlamaConfig(
        vocab_size=vocabulary.size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(root / "llama")
    vocabulary.save(root / "llama")
    card = Description(kind="dialogue", vocabulary_digest=vocabulary.digest, max_tokens=64)
    write_card(root / "llama", card)
    return {
        "gpt2": root / "dialogue",
        "llama": root / "llama",
        "recommendation": root / "recommendation",
    }


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_two_parts_are_those_of_the_whole_bit_for_bit(
    name: str, dtype: str, folders: dict[str, Path]
) -> None:
    whole = load_teacher("dialogue", folders[name], CPU, dtype=dtype)
    parts = load_teacher("dialogue", folders[name], CPU, dtype=dtype, further=(CPU,))
    rng = np.random.default_rng(0)
    inputs = [
        SequenceInput.at_end(num_rows=n, tokens=rng.integers(0, 200, length, dtype=np.int32))
        for length, n in ((40, 20), (64, 30), (9, 1))
    ]
    for cut in (Compression(values=FLOAT32), Compression(top_k=16, values=FLOAT32)):
        first, second = (codec.encode(it.score(inputs, cut), FLOAT32) for it in (whole, parts))
        assert first == second
    assert parts.description == whole.description


@pytest.mark.parametrize("name", LAYERS)
def test_map_cuts_between_layers_and_every_tensor_goes_straight_where_it_says(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_exported(folders[name])
    first, last = devices = [torch.device("cuda", at) for at in range(2)]
    placed = device_map(model, devices, folders[name])
    blocks = [placed[f"{LAYERS[name]}.{at}"] for at in range(model.config.num_hidden_layers)]
    # One cut, and no key that names less than a layer.
    assert blocks == sorted(blocks, key=devices.index) and blocks[-1] == last
    assert not any(it.count(".") > LAYERS[name].count(".") + 1 for it in placed)
    went: dict[int, torch.device] = {}

    def copy(source: Tensor, device: torch.device, *_: object) -> Tensor:
        went[source.data_ptr()] = device
        return source

    monkeypatch.setattr(placing, "_own", copy)
    place_(model, Placement(device=first, further=(last,)), folders[name], placed)
    held = dict.fromkeys(devices, 0)
    for key, weight in model.named_parameters():
        (device,) = (to for it, to in placed.items() if key.startswith(f"{it}."))
        assert went[weight.data_ptr()] == device
        held[device] += weight.numel()
    assert min(held.values()) > 0.25 * sum(held.values())
    assert went[next(model.parameters()).data_ptr()] == first
    assert went[output_weight(model).data_ptr()] == (first if name == "gpt2" else last)


@pytest.mark.parametrize("name", LAYERS)
def test_model_with_further_devices_is_joined_by_hooks_of_its_map(
    name: str, folders: dict[str, Path]
) -> None:
    vocabulary = Vocabulary.load(folders[name])
    placement = Placement(device=CPU, further=(CPU,))
    module = load_causal_lm(folders[name], vocabulary, placement).module
    assert vars(module)["hf_device_map"].keys() >= {f"{LAYERS[name]}.{at}" for at in range(2)}
    whole = load_causal_lm(folders[name], vocabulary).module
    assert "hf_device_map" not in vars(whole)


def test_least_parts_leave_no_device_empty(folders: dict[str, Path]) -> None:
    model = read_exported(folders["llama"])
    devices = [torch.device("cuda", at) for at in range(4)]
    assert set(device_map(model, devices[:3], folders["llama"]).values()) == set(devices[:3])
    assert device_map(model, devices[:1], folders["llama"]) == {"": devices[0]}


def test_model_with_a_module_larger_than_its_share_is_refused(folders: dict[str, Path]) -> None:
    model = read_exported(folders["gpt2"])
    devices = [torch.device("cuda", at) for at in range(8)]
    with pytest.raises(InputError, match=r"a part for each of 8 GPUs, got \d parts: its largest"):
        device_map(model, devices, folders["gpt2"])


def test_teacher_that_cannot_lie_on_so_many_devices_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="recommendation teachers must have at most one GPU, got 2"
    ):
        load_teacher("recommendation", folders["recommendation"], CPU, further=(CPU,))
    with pytest.raises(InputError, match="on 3 GPUs must have as many layers, got 2"):
        load_teacher("dialogue", folders["gpt2"], CPU, further=(CPU, CPU))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "conkd-kg-transformer"}))
    with pytest.raises(
        InputError, match="must be a causal language model of Hugging Face, got a c"
    ):
        load_teacher("dialogue", tmp_path, CPU, further=(CPU,))

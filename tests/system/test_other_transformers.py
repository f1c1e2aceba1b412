"""An exported student in the hands of transformers 4, which this project does not run on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.data.dialogue import Mention
from trainer.data.model_input import SequenceInput
from trainer.evaluation.generate import GenerateConfig, Prompt, generate
from trainer.evaluation.loaded_model import load_model

PlainRun = Callable[[int], Path]

PACKAGES = ("transformers==4.57.*", "huggingface-hub>=0.34,<1", "tokenizers>=0.22,<=0.23.0")
READER = """
import json, sys
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

folder, prompt, film = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
answer = pipeline("text-generation", folder, do_sample=False, max_new_tokens=30, device="cpu")
print(json.dumps({
    "version": transformers.__version__,
    "tokens": len(tokenizer),
    "rows": model.get_output_embeddings().weight.shape[0],
    "film": tokenizer.decode([film]),
    "ids": tokenizer(prompt)["input_ids"],
    "answer": answer(prompt, return_full_text=False)[0]["generated_text"],
}))
"""


@pytest.fixture(scope="module")
def transformers_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with transformers 4.57 alone; the rest is this environment's."""
    target = tmp_path_factory.mktemp("transformers-4")
    # What pins this environment does not hold for the other one.
    environment = {**os.environ, "PIP_CONSTRAINT": os.devnull}
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, *PACKAGES],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"transformers 4.57 could not be installed: {reason}")
    return target


@pytest.mark.everything
def test_exported_student_answers_the_same_under_transformers_4(
    plain_run: PlainRun, transformers_4: Path
) -> None:
    folder = plain_run(1) / "model"
    loaded = load_model(folder)
    vocabulary = loaded.vocabulary
    film, title = vocabulary.item_token(0), vocabulary.titles[0]
    pieces = ["I liked ", Mention(vocabulary.movie_ids[0]), " a lot."]
    ids = [*vocabulary.encode(pieces), vocabulary.eos_id, vocabulary.rec_id]
    prompt = Prompt("a", SequenceInput.at_end(num_rows=1, tokens=np.array(ids, np.int32)), 1)
    (ours,) = generate(loaded.model, vocabulary, [prompt], GenerateConfig(), title="test")

    text = f'I liked "{title}" a lot.<|endoftext|>[REC]'
    environment = {**os.environ, "PYTHONPATH": str(transformers_4), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", READER, folder, text, str(film)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["version"].startswith("4.57.")
    assert found["tokens"] == found["rows"] == vocabulary.size
    assert found["film"] == title
    assert found["ids"] == ids
    assert found["answer"].strip() == vocabulary.decode(ours.token_ids).strip()

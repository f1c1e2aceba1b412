"""One language model of either architecture: built, run, written, read.

Everything else asks here, and does not know whether it has a causal LM of Hugging Face or KGSF's
transformer before it.

B examples, P wanted positions, D hidden, I items, K of the items' vectors.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainer.common.atomic import write_bytes
from trainer.common.errors import first_line
from trainer.config.language_model import LanguageModelConfig
from trainer.data.model_input import InputLimits, ModelInput
from trainer.data.vocabulary import Vocabulary
from trainer.models import causal_lm
from trainer.models.causal_lm import draw_new_rows_
from trainer.models.frozen import CONFIG_NAME, WEIGHTS_NAME, read_shape, write_shape
from trainer.models.frozen_recommender import FrozenRecommender
from trainer.models.kg_transformer import KgTransformer, KgTransformerShape

LanguageModel = PreTrainedModel | KgTransformer
# Tied to the embedding: one tensor, written once.
TIED = "head.weight"


def build_language_model(
    config: LanguageModelConfig,
    vocabulary: Vocabulary,
    *,
    item_vectors_IK: Tensor | None = None,
    knowledge: FrozenRecommender | None = None,
) -> LanguageModel:
    """A model to be trained, drawn by torch's generator.

    Args:
        item_vectors_IK: float [I, K], start of the items' rows; None: random.
        knowledge: whose entities and words KGSF's transformer attends to; None: it does not.

    Raises:
        ValueError: if knowledge is given to another architecture, or has no words, or if
            the films' rows shall start from two things at once.
    """
    if config.new_rows == "titles" and item_vectors_IK is not None:
        raise ValueError(
            "student.new_rows must be random beside item_vectors, got titles. Films' rows start "
            "from one of them: leave the other out."
        )
    if config.architecture == "gpt2":
        if knowledge is not None:
            raise ValueError(
                "knowledge must be null unless student.architecture is kgsf, got a recommendation "
                "teacher. Leave it out."
            )
        return causal_lm.build_causal_lm(config, vocabulary, item_vectors_IK)
    if knowledge is not None and not knowledge.num_words:
        raise ValueError(
            "knowledge must be a recommendation teacher with words, got one without. "
            "Fit it with word_side: true."
        )
    model = KgTransformer(
        _kg_shape(config, vocabulary, knowledge),
        entities_NK=None if knowledge is None else knowledge.entities_ND.clone(),
        words_WK=None if knowledge is None else knowledge.words_WD.clone(),
        dropout=config.dropout,
        activation_checkpointing=config.activation_checkpointing,
    )
    draw_new_rows_(
        model.head.weight, vocabulary, item_vectors_IK, width=1.0, new_rows=config.new_rows
    )
    return model


def response_states(model: LanguageModel, inputs: ModelInput) -> Tensor:
    """Last hidden states of the wanted positions, examples end to end, float [P, D].

    Nothing else in the batch changes them, but for float rounding.
    """
    if isinstance(model, KgTransformer):
        return model.response_states(inputs)
    hidden_BLD = causal_lm.hidden_states(model, inputs.input_ids_BL)
    return hidden_BLD.flatten(0, 1).index_select(0, inputs.hidden_index_P)


def output_head(model: LanguageModel) -> nn.Linear:
    """The output projection, without bias: logits are its product with `response_states`."""
    return model.head if isinstance(model, KgTransformer) else causal_lm.output_head(model)


def input_limits(model: LanguageModel) -> InputLimits:
    """What the model takes of an example; tokens with the response."""
    if not isinstance(model, KgTransformer):
        return InputLimits(max_tokens=causal_lm.max_input_length(model))
    shape = model.shape
    if not shape.knowledge_size:
        return InputLimits(max_tokens=shape.max_positions)
    return InputLimits(
        max_tokens=shape.max_positions,
        max_entities=shape.max_entities,
        max_words=shape.max_words,
    )


def knowledge_size(model: LanguageModel) -> tuple[int, int]:
    """Entities and words that may be given to the model; 0: it takes none."""
    if not isinstance(model, KgTransformer):
        return 0, 0
    return model.shape.num_entities, model.shape.num_words


def write_language_model(
    folder: Path, model: LanguageModel, whole: dict[str, Tensor] | None = None
) -> None:
    """Write config.json and model.safetensors; a causal LM's folder is Hugging Face's.

    `whole` is the model's state dict where its own parameters are cut up among ranks.

    Raises:
        OSError: if they could not be written.
    """
    whole = model.state_dict() if whole is None else whole
    if not isinstance(model, KgTransformer):
        try:
            model.save_pretrained(folder, state_dict=whole)
        except SafetensorError as error:
            # That of a full disk, too, is no OSError.
            raise OSError(
                f"{folder} must take the model, got: {first_line(error)}. Make room and start the "
                "same command again."
            ) from error
        return
    state = {k: t.contiguous().cpu() for k, t in whole.items() if k != TIED}
    write_bytes(folder / WEIGHTS_NAME, save(state))
    write_shape(folder, "kg-transformer", dataclasses.asdict(model.shape))


def load_language_model(folder: Path, vocabulary: Vocabulary) -> LanguageModel:
    """An exported model on the CPU in eval mode, refused unless it has the vocabulary's rows."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder} must be a model folder, got no {CONFIG_NAME} there.")
    try:
        model_type = json.loads(path.read_text())["model_type"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must give a model_type, got {error!r}.") from error
    if model_type != "conkd-kg-transformer":
        model: LanguageModel = causal_lm.load_causal_lm(folder, vocabulary)
    else:
        model = _load_kg_transformer(folder, vocabulary)
    nn.Module.train(model, False)
    return model


def _kg_shape(
    config: LanguageModelConfig, vocabulary: Vocabulary, knowledge: FrozenRecommender | None
) -> KgTransformerShape:
    return KgTransformerShape(
        vocab_size=vocabulary.size,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        max_positions=config.max_positions,
        knowledge_size=0 if knowledge is None else knowledge.entities_ND.shape[1],
        num_entities=0 if knowledge is None else knowledge.num_entities,
        num_words=0 if knowledge is None else knowledge.num_words,
        max_entities=config.max_entities,
        max_words=config.max_words,
    )


def _load_kg_transformer(folder: Path, vocabulary: Vocabulary) -> KgTransformer:
    sizes, path = read_shape(folder, "kg-transformer"), folder / WEIGHTS_NAME
    names = {field.name for field in dataclasses.fields(KgTransformerShape)}
    if set(sizes) != names:
        raise ValueError(f"{folder / CONFIG_NAME} must give {sorted(names)}, got {sorted(sizes)}.")
    shape = KgTransformerShape(**sizes)
    if shape.vocab_size != vocabulary.size:
        raise ValueError(
            f"the model in {folder} must have {vocabulary.size} output rows, got "
            f"{shape.vocab_size}. Use the vocabulary it was trained with."
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be safetensors, got: {error}.") from error
    vectors = ("entities_NK", "words_WK") if shape.knowledge_size else ()
    if any(name not in state for name in vectors):
        raise ValueError(f"{path} must hold {', '.join(vectors)}, got {', '.join(sorted(state))}.")
    entities_NK, words_WK = (state[name].float() for name in vectors) if vectors else (None, None)
    model = KgTransformer(shape, entities_NK=entities_NK, words_WK=words_WK)
    expected = {k: tuple(t.shape) for k, t in model.state_dict().items() if k != TIED}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes != expected:
        raise ValueError(f"{path} must hold {expected} as its config says, got {shapes}.")
    model.load_state_dict({**state, TIED: state["tokens.weight"]})
    return model

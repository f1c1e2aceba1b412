"""The recommendation teacher as it is served: a table of entity vectors and one matrix product.

    p_u = sum_k alpha_k n_k,  alpha = softmax_k(tanh(n_k A) b),  over the entities mentioned so far
    P_psi(i) = softmax_i(p_u . n_i + c_i)  over the items                               (Eq. 4)

No graph library is needed here: `recommender.py` learns the n_e and freezes them.

B examples, E their entities end to end, N entities, I items, D hidden.

Source: KGSF (Zhou et al., KDD 2020), with the softmax over the items alone.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from protos.fingerprint import digest_file
from trainer.atomic import write_bytes
from trainer.data.vocabulary import Vocabulary
from trainer.models.frozen import (
    WEIGHTS_NAME,
    FrozenCard,
    read_card,
    read_shape,
    write_card,
    write_shape,
)


def attentive_pool(
    vectors_ND: Tensor, attention_N: Tensor, entity_ids_E: Tensor, lengths_B: Tensor
) -> Tensor:
    """Softmax-weighted sum of each example's vectors; the zero vector for an empty set.

    Args:
        vectors_ND: entity vectors, float [N, D].
        attention_N: attention logit of each entity, float [N].
        entity_ids_E: int64 [E], the examples' entities end to end.
        lengths_B: int64 [B], entities of each example.

    Returns:
        float [B, D]. A row is summed over its own entities in their order, so nothing else in the
        batch can change it.
    """
    logits_E = attention_N[entity_ids_E]
    # The shift cancels in the quotient, so no gradient goes through it.
    highest_B = torch.segment_reduce(
        logits_E.detach(), "max", lengths=lengths_B, unsafe=True, initial=-math.inf
    )
    weights_E = torch.exp(logits_E - highest_B.repeat_interleave(lengths_B))
    total_B = torch.segment_reduce(weights_E, "sum", lengths=lengths_B, unsafe=True, initial=0.0)
    pooled_BD = F.embedding_bag(
        entity_ids_E,
        vectors_ND,
        lengths_B.cumsum(0) - lengths_B,
        mode="sum",
        per_sample_weights=weights_E,
    )
    return pooled_BD / total_B.masked_fill(lengths_B == 0, 1.0)[:, None]


class FrozenRecommender(nn.Module):
    """The served model: a table of entity vectors, pooling and one matrix product; no graph.

    Args:
        entities_ND: float32 [N, D] vectors n_e.
        attention_N: float32 [N] attention logits.
        items_I: int64 [I] entity of each item, in the vocabulary's order.
        item_bias_I: float32 [I].
    """

    entities_ND: Tensor
    attention_N: Tensor
    items_I: Tensor
    item_bias_I: Tensor
    items_ID: Tensor

    def __init__(
        self, entities_ND: Tensor, attention_N: Tensor, items_I: Tensor, item_bias_I: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("entities_ND", entities_ND)
        self.register_buffer("attention_N", attention_N)
        self.register_buffer("items_I", items_I)
        self.register_buffer("item_bias_I", item_bias_I)
        self.register_buffer("items_ID", entities_ND[items_I], persistent=False)

    @property
    def num_entities(self) -> int:
        """Entities that may be given."""
        return len(self.entities_ND)

    def forward(self, entity_ids: Tensor, lengths: Tensor) -> Tensor:
        """log P_psi of every item, float32 [B, I], in nats.

        Args:
            entity_ids: int64 [E], the examples' entities end to end.
            lengths: int64 [B], entities of each example; 0 is allowed.

        Raises:
            ValueError: if the two do not fit together.
        """
        if entity_ids.ndim != 1 or lengths.ndim != 1:
            raise ValueError(
                "entity_ids and lengths must be flat, got shapes "
                f"{tuple(entity_ids.shape)} and {tuple(lengths.shape)}. Join the examples' "
                "entities end to end, without padding."
            )
        if int(lengths.sum()) != len(entity_ids):
            raise ValueError(
                f"lengths must sum to the number of entity_ids, {len(entity_ids)}, got "
                f"{int(lengths.sum())}."
            )
        users_BD = attentive_pool(self.entities_ND, self.attention_N, entity_ids, lengths)
        return torch.log_softmax(users_BD @ self.items_ID.T + self.item_bias_I, dim=-1)


def export_recommender(
    folder: Path,
    recommender: FrozenRecommender,
    vocabulary: Vocabulary,
    *,
    graph_digest: str,
    max_input_length: int,
) -> FrozenCard:
    """Write weights, vocabulary and, last, the card."""
    state = {name: tensor.contiguous() for name, tensor in recommender.state_dict().items()}
    write_bytes(folder / WEIGHTS_NAME, save(state))
    sizes = {
        "num_items": len(recommender.items_I),
        "hidden_size": recommender.entities_ND.shape[1],
    }
    write_shape(folder, "recommendation", sizes)
    vocabulary.save(folder)
    card = FrozenCard(
        kind="recommendation",
        vocabulary_digest=vocabulary.digest,
        weights_digest=digest_file(folder / WEIGHTS_NAME),
        max_input_length=max_input_length,
        graph_digest=graph_digest,
        num_entities=recommender.num_entities,
    )
    write_card(folder, card)
    return card


def load_recommender(folder: Path) -> tuple[FrozenRecommender, FrozenCard]:
    """A frozen recommendation teacher, on the CPU in eval mode, and its card.

    Raises:
        FileNotFoundError: if the folder or its card is missing.
        ValueError: if it is another kind of model, or its weights are not those of the card.
    """
    card = read_card(folder, "recommendation")
    try:
        state = load_file(folder / WEIGHTS_NAME)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS_NAME} must be safetensors, got: {error}.") from error
    shape = read_shape(folder, "recommendation")
    num_items, hidden_size = shape.get("num_items"), shape.get("hidden_size")
    expected = {
        "entities_ND": (card.num_entities, hidden_size),
        "attention_N": (card.num_entities,),
        "items_I": (num_items,),
        "item_bias_I": (num_items,),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes != expected:
        raise ValueError(
            f"{folder / WEIGHTS_NAME} must hold {expected} as its config says, got {shapes}. "
            "Export the model again."
        )
    return FrozenRecommender(**state).eval().requires_grad_(False), card

"""The recommendation teacher as it is served: tables of vectors and one matrix product.

    p_e = sum_k alpha_k n_k,  alpha = softmax_k(tanh(n_k A) b),  over the entities named so far
    p_w likewise over the words said so far, repeats kept (KGSF), with their own A and b
    beta = sigma(g . [p_w; p_e] + g_0),  p_u = beta p_e + (1 - beta) p_w                 (Eq. 3)
    P_psi(i) = softmax_i(p_u . n_i + c_i)  over the items                                (Eq. 4)

No graph library is needed here: `recommender.py` learns the vectors and freezes them. KGSF's code
has two linear maps in the gate with nothing in between: the same functions as one g.

B examples, E their entities end to end, K their words end to end, N entities, W words, I items,
D hidden.

Source: KGSF (Zhou et al., KDD 2020), with the softmax over the items alone.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from protos.teacher_pb2 import Description
from trainer.common.atomic import write_bytes
from trainer.common.errors import InputError
from trainer.data.bags import Bags
from trainer.data.vocabulary import Vocabulary
from trainer.models.frozen import (
    WEIGHTS_NAME,
    read_card,
    read_shape,
    write_card,
    write_shape,
)
from trainer.models.placing import PLAIN, place_
from trainer.models.weights import load_state, rebuild


def attentive_pool(vectors_ND: Tensor, attention_N: Tensor, bags: Bags) -> Tensor:
    """Softmax-weighted sum of each example's vectors; the zero vector for an empty bag.

    Args:
        vectors_ND: float [N, D].
        attention_N: attention logit of each vector, float [N].
        bags: rows of the table.

    Returns:
        float [B, D]. A row is summed over its own ids in their order, so nothing else in the batch
        can change it.
    """
    ids_E, lengths_B = bags.ids_E, bags.lengths_B
    logits_E = attention_N[ids_E]
    # The shift cancels in the quotient, so no gradient goes through it.
    highest_B = torch.segment_reduce(
        logits_E.detach(), "max", lengths=lengths_B, unsafe=True, initial=-math.inf
    )
    weights_E = torch.exp(logits_E - highest_B.repeat_interleave(lengths_B))
    total_B = torch.segment_reduce(weights_E, "sum", lengths=lengths_B, unsafe=True, initial=0.0)
    pooled_BD = F.embedding_bag(
        ids_E,
        vectors_ND,
        lengths_B.cumsum(0) - lengths_B,
        mode="sum",
        per_sample_weights=weights_E,
    )
    return pooled_BD / total_B.masked_fill(lengths_B == 0, 1.0)[:, None]


def gated(entities_BD: Tensor, words_BD: Tensor, gate_2D: Tensor, gate_bias: Tensor) -> Tensor:
    """p_u of Eq. 3, float [B, D]: pooled entities where the gate is open, pooled words else."""
    both_B2D = torch.cat([words_BD, entities_BD], dim=-1)
    beta_B1 = torch.sigmoid(both_B2D @ gate_2D + gate_bias)[:, None]
    return beta_B1 * entities_BD + (1.0 - beta_B1) * words_BD


class FrozenRecommender(nn.Module):
    """The served model: tables of vectors, pooling, gate and one matrix product; no graph.

    Args:
        entities_ND: float32 [N, D] vectors n_e.
        attention_N: float32 [N] attention logits.
        items_I: int64 [I] entity of each item, in the vocabulary's order.
        item_bias_I: float32 [I].
        words_WD: float32 [W, D]; no rows: a model without a word side, p_u = p_e.
        word_attention_W: float32 [W].
        gate_2D, gate_bias: float32 [2 D] and [].
    """

    entities_ND: Tensor
    attention_N: Tensor
    items_I: Tensor
    item_bias_I: Tensor
    words_WD: Tensor
    word_attention_W: Tensor
    gate_2D: Tensor
    gate_bias: Tensor
    items_ID: Tensor

    def __init__(
        self,
        *,
        entities_ND: Tensor,
        attention_N: Tensor,
        items_I: Tensor,
        item_bias_I: Tensor,
        words_WD: Tensor,
        word_attention_W: Tensor,
        gate_2D: Tensor,
        gate_bias: Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("entities_ND", entities_ND)
        self.register_buffer("attention_N", attention_N)
        self.register_buffer("items_I", items_I)
        self.register_buffer("item_bias_I", item_bias_I)
        self.register_buffer("words_WD", words_WD)
        self.register_buffer("word_attention_W", word_attention_W)
        self.register_buffer("gate_2D", gate_2D)
        self.register_buffer("gate_bias", gate_bias)
        self.register_buffer("items_ID", entities_ND[items_I], persistent=False)

    @property
    def num_entities(self) -> int:
        """Entities that may be given."""
        return len(self.entities_ND)

    @property
    def num_words(self) -> int:
        """Words that may be given; 0: it takes none."""
        return len(self.words_WD)

    def forward(self, entities: Bags, words: Bags) -> Tensor:
        """log P_psi of every item, float32 [B, I], in nats; bags of one example each may be empty.

        Raises:
            ValueError: if the two are not of as many examples.
        """
        if len(entities.lengths_B) != len(words.lengths_B):
            raise ValueError(
                "entities and words must be of as many examples, got "
                f"{len(entities.lengths_B)} and {len(words.lengths_B)}."
            )
        users_BD = attentive_pool(self.entities_ND, self.attention_N, entities)
        if self.num_words:
            words_BD = attentive_pool(self.words_WD, self.word_attention_W, words)
            users_BD = gated(users_BD, words_BD, self.gate_2D, self.gate_bias)
        return torch.log_softmax(users_BD @ self.items_ID.T + self.item_bias_I, dim=-1)


def export_recommender(
    folder: Path,
    recommender: FrozenRecommender,
    vocabulary: Vocabulary,
    *,
    graph_digest: str,
    max_entities: int,
    max_words: int,
) -> Description:
    """Write weights, vocabulary and, last, the card.

    Args:
        graph_digest: of the knowledge graph and the word graph together.
        max_entities, max_words: what is used of a context: the last ones.
    """
    state = {name: tensor.contiguous() for name, tensor in recommender.state_dict().items()}
    write_bytes(folder / WEIGHTS_NAME, save(state))
    sizes = {
        "num_items": len(recommender.items_I),
        "hidden_size": recommender.entities_ND.shape[1],
    }
    write_shape(folder, "recommendation", sizes)
    vocabulary.save(folder)
    card = Description(
        kind="recommendation",
        vocabulary_digest=vocabulary.digest,
        max_entities=max_entities,
        graph_digest=graph_digest,
        num_entities=recommender.num_entities,
        num_words=recommender.num_words,
        max_words=max_words if recommender.num_words else 0,
    )
    return write_card(folder, card)


def load_recommender(folder: Path) -> tuple[FrozenRecommender, Description]:
    """A frozen recommendation teacher, on the CPU in eval mode, and its card.

    Raises:
        FileNotFoundError: if the folder or its card is missing.
        InputError: if it is another kind of model, or its weights are not those of the card.
    """
    card = read_card(folder, "recommendation")
    shape = read_shape(folder, "recommendation")
    if shape.get("distinct_words"):
        raise InputError(
            f"{folder} must be a model that pools every word, got distinct_words, which was "
            "removed. Fit it again."
        )
    num_items, hidden_size = shape.get("num_items"), shape.get("hidden_size")
    expected = {
        "entities_ND": (card.num_entities, hidden_size),
        "attention_N": (card.num_entities,),
        "items_I": (num_items,),
        "item_bias_I": (num_items,),
        "words_WD": (card.num_words, hidden_size),
        "word_attention_W": (card.num_words,),
        "gate_2D": (2 * (hidden_size or 0),),
        "gate_bias": (),
    }
    state = load_state(folder / WEIGHTS_NAME, expected)
    recommender = rebuild(folder / WEIGHTS_NAME, lambda: FrozenRecommender(**state))
    place_(recommender, PLAIN, folder)
    return recommender.eval().requires_grad_(False), card

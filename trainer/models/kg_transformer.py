"""KGSF's conversation model without its copy branch: a transformer that also reads a graph.

An encoder reads the context. Every layer of the decoder attends to the response so far, to the
entities and to the words of the context, and to the context. The vectors of entities and words are
those of a frozen recommendation teacher; only their projection is learnt.

Tokens come as a causal language model's do, context and response in one row. The decoder reads the
last `num_rows` of them, which starts it with the context's last end of text, or with the action
token in its place; the encoder reads what is before.

Source: Zhou et al., KDD 2020, section 4.3 and its code (post-LN layers of ParlAI, embeddings times
sqrt(D), sinusoidal positions, tied output); the paper's Table 1 drops the copy branch.

B examples, S source positions, T response positions, H heads, D hidden, K of the knowledge's
vectors, V vocabulary, P wanted positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainer.data.bags import Bags
from trainer.data.model_input import ModelInput


@dataclass(frozen=True, kw_only=True)
class KgTransformerShape:
    """The sizes that rebuild the module; num_layers counts the encoder's, and the decoder's."""

    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    max_positions: int
    knowledge_size: int
    """K; 0: a plain transformer, without entities and words."""
    num_entities: int
    num_words: int
    max_entities: int
    max_words: int


@dataclass(frozen=True, eq=False)
class Memory:
    """What one attention looks at, projected once.

    Attributes:
        key_BHSD, value_BHSD: float [B, H, S, D / H].
        mask_BS: bool [B, S], True where there is something.
    """

    key_BHSD: Tensor
    value_BHSD: Tensor
    mask_BS: Tensor


class Attention(nn.Module):
    """Multi-head attention; a query without anything to look at attends to the zero vector."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def remember(self, source_BSD: Tensor, mask_BS: Tensor) -> Memory:
        """Keys and values of a source."""
        return Memory(
            self._split(self.key(source_BSD)), self._split(self.value(source_BSD)), mask_BS
        )

    def forward(self, states_BTD: Tensor, memory: Memory, *, is_causal: bool = False) -> Tensor:
        """Attended values, float [B, T, D]; causal: position t sees the source up to t."""
        mask_BTS = memory.mask_BS[:, None, :]
        if is_causal:
            length = states_BTD.shape[1]
            mask_BTS = mask_BTS & mask_BTS.new_ones(length, length).tril()
        # Softmax over nothing is not a number, so an empty source is looked at and then dropped.
        is_empty_BT1 = ~mask_BTS.any(-1, keepdim=True)
        seen_BHTD = F.scaled_dot_product_attention(
            self._split(self.query(states_BTD)),
            memory.key_BHSD,
            memory.value_BHSD,
            attn_mask=(mask_BTS | is_empty_BT1)[:, None],
        )
        seen_BTD = seen_BHTD.transpose(1, 2).flatten(2).masked_fill(is_empty_BT1, 0.0)
        return self.output(seen_BTD)

    def _split(self, states_BSD: Tensor) -> Tensor:
        return states_BSD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """As wide inside as outside (KGSF), ReLU, dropout behind it."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)
        self.outer = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.inner, self.outer):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, states_BTD: Tensor) -> Tensor:
        """Float [B, T, D]."""
        return self.outer(self.dropout(F.relu(self.inner(states_BTD))))


class Residual(nn.Module):
    """Dropout, sum, then layer norm (post-LN)."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, states_BTD: Tensor, change_BTD: Tensor) -> Tensor:
        """Float [B, T, D]."""
        return self.norm(states_BTD + self.dropout(change_BTD))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(hidden_size, num_heads)
        self.attended = Residual(hidden_size, dropout)
        self.feed_forward = FeedForward(hidden_size, dropout)
        self.fed = Residual(hidden_size, dropout)

    def forward(self, states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Float [B, S, D]."""
        memory = self.attention.remember(states_BSD, mask_BS)
        states_BSD = self.attended(states_BSD, self.attention(states_BSD, memory))
        return self.fed(states_BSD, self.feed_forward(states_BSD))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to each source in turn, and a feed-forward layer."""

    def __init__(self, shape: KgTransformerShape, dropout: float) -> None:
        super().__init__()
        size, num_heads = shape.hidden_size, shape.num_heads
        # Entities, words, context; or the context alone.
        num_sources = 3 if shape.knowledge_size else 1
        self.self_attention = Attention(size, num_heads)
        self.self_attended = Residual(size, dropout)
        self.attentions = nn.ModuleList([Attention(size, num_heads) for _ in range(num_sources)])
        self.attended = nn.ModuleList([Residual(size, dropout) for _ in range(num_sources)])
        self.feed_forward = FeedForward(size, dropout)
        self.fed = Residual(size, dropout)

    def remember(self, sources: list[tuple[Tensor, Tensor]]) -> list[Memory]:
        """Keys and values of every source, from its states [B, S, D] and mask [B, S]."""
        memories = []
        for attention, (states_BSD, mask_BS) in zip(self.attentions, sources, strict=True):
            assert isinstance(attention, Attention)
            memories.append(attention.remember(states_BSD, mask_BS))
        return memories

    def forward(self, states_BTD: Tensor, mask_BT: Tensor, memories: list[Memory]) -> Tensor:
        """Float [B, T, D]; memories in the order of the sources."""
        past = self.self_attention.remember(states_BTD, mask_BT)
        change_BTD = self.self_attention(states_BTD, past, is_causal=True)
        states_BTD = self.self_attended(states_BTD, change_BTD)
        for attention, residual, memory in zip(
            self.attentions, self.attended, memories, strict=True
        ):
            states_BTD = residual(states_BTD, attention(states_BTD, memory))
        return self.fed(states_BTD, self.feed_forward(states_BTD))


class KgTransformer(nn.Module):
    """Logits are `head(response_states(...))`.

    Args:
        entities_NK, words_WK: float32 vectors of a frozen recommender; None with knowledge_size 0.
        dropout: on embeddings, residuals and inside feed-forward layers; none on attention (KGSF).
        activation_checkpointing: in training, layers compute their inner values again in backward.
    """

    entities_NK: Tensor
    words_WK: Tensor

    def __init__(
        self,
        shape: KgTransformerShape,
        *,
        entities_NK: Tensor | None = None,
        words_WK: Tensor | None = None,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.activation_checkpointing = activation_checkpointing
        size, knowledge_size = shape.hidden_size, shape.knowledge_size
        self.tokens = nn.Embedding(shape.vocab_size, size)
        nn.init.normal_(self.tokens.weight, std=size**-0.5)
        self.head = nn.Linear(size, shape.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.dropout = nn.Dropout(dropout)
        layers = range(shape.num_layers)
        self.encoder = nn.ModuleList([EncoderLayer(size, shape.num_heads, dropout) for _ in layers])
        self.decoder = nn.ModuleList([DecoderLayer(shape, dropout) for _ in layers])
        if knowledge_size:
            assert entities_NK is not None and words_WK is not None
            self.register_buffer("entities_NK", entities_NK)
            self.register_buffer("words_WK", words_WK)
            self.entity_projection = nn.Linear(knowledge_size, size)
            self.word_projection = nn.Linear(knowledge_size, size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def response_states(self, inputs: ModelInput) -> Tensor:
        """Last hidden states of the wanted positions, examples end to end, float [P, D]."""
        memories = self.encode(inputs)
        start_B = inputs.lengths_B - inputs.num_rows_B
        column_T = torch.arange(int(inputs.num_rows_B.max()), device=start_B.device)
        is_token_BT = column_T < inputs.num_rows_B[:, None]
        last_column = inputs.input_ids_BL.shape[1] - 1
        index_BT = (start_B[:, None] + column_T).clamp(max=last_column)
        ids_BT = inputs.input_ids_BL.gather(1, index_BT)
        return self.decode(ids_BT, is_token_BT, memories)[is_token_BT]

    def encode(self, inputs: ModelInput) -> list[list[Memory]]:
        """What each layer of the decoder looks at, but for the response; per layer and source."""
        start_B = inputs.lengths_B - inputs.num_rows_B
        # At least one column, so that a batch of empty contexts has a shape too.
        column_S = torch.arange(max(1, int(start_B.max())), device=start_B.device)
        is_context_BS = column_S < start_B[:, None]
        states_BSD = self._embed(inputs.input_ids_BL[:, : len(column_S)], is_context_BS)
        for layer in self.encoder:
            states_BSD = self._run(layer, states_BSD, is_context_BS)
        sources = [(states_BSD, is_context_BS)]
        if self.shape.knowledge_size:
            entities = _look_up(self.entities_NK, self.entity_projection, inputs.entities)
            words = _look_up(self.words_WK, self.word_projection, inputs.words)
            sources = [entities, words, *sources]
        memories = []
        for layer in self.decoder:
            assert isinstance(layer, DecoderLayer)
            memories.append(layer.remember(sources))
        return memories

    def decode(self, ids_BT: Tensor, mask_BT: Tensor, memories: list[list[Memory]]) -> Tensor:
        """Last hidden states of a response so far, right-padded, float [B, T, D]."""
        states_BTD = self._embed(ids_BT, mask_BT)
        for layer, memories_of_layer in zip(self.decoder, memories, strict=True):
            states_BTD = self._run(layer, states_BTD, mask_BT, memories_of_layer)
        return states_BTD

    def _run(self, layer: nn.Module, *inputs: object) -> Tensor:
        """One layer; its inner values are not kept if activations are checkpointed."""
        if self.activation_checkpointing and self.training:
            # Not reentrant: the keys and values inside `inputs` need gradients too.
            return checkpoint(layer, *inputs, use_reentrant=False)  # type: ignore[return-value]
        return layer(*inputs)

    def _embed(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        size = self.shape.hidden_size
        # Pads become one fixed token, so that no pad can change a bit of the output.
        states_BSD = self.tokens(ids_BS.masked_fill(~mask_BS, 0)) * size**0.5
        return self.dropout(states_BSD + sinusoids(ids_BS.shape[1], size).to(states_BSD))


def sinusoids(num_positions: int, size: int) -> Tensor:
    """Fixed position vectors, float32 [T, D]: sin and cos alternate, the j-th pair at 10^4^-2j/D.

    Source: Vaswani et al. 2017, section 3.5.
    """
    frequency_J = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    angle_TJ = torch.arange(num_positions)[:, None] * frequency_J
    return torch.stack([angle_TJ.sin(), angle_TJ.cos()], dim=-1).flatten(1)[:, :size]


def _look_up(vectors_NK: Tensor, projection: nn.Linear, bags: Bags) -> tuple[Tensor, Tensor]:
    """Projected vectors of each example's ids, float [B, S, D], and which of them are there."""
    ids_BS, is_id_BS = bags.padded()
    # Under bf16 the parameters are cast, and the vectors are not.
    return projection(vectors_NK[ids_BS].to(projection.weight.dtype)), is_id_BS

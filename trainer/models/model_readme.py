"""The model card of an exported student: README.md, for whoever is given the folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.common.atomic import write_text
from trainer.data.joint_tokenizer import control_tokens, film_spellings
from trainer.data.text_form import puts_space_in_front
from trainer.data.vocabulary import Vocabulary
from trainer.models.causal_lm import MAX_RESPONSE_TOKENS
from trainer.models.language_model import architecture_of
from trainer.models.student_card import README_NAME, StudentCard


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a reader of the model card wants to know of the run."""

    source: str
    """Name of the corpus."""
    credit: str
    """Whom the corpus's licence says to name; empty: nobody."""
    pretrained: str | None
    """The model that the student started from."""


def write_readme(
    folder: Path, vocabulary: Vocabulary, card: StudentCard, facts: ModelFacts
) -> None:
    """Write the model card of an exported student."""
    parts = [
        "# Conversational recommender, a ConKD student",
        _what(card, vocabulary, facts),
        "## Use",
        _own_use(card),
        _use(folder, card, vocabulary),
        "## Licence and credit",
        _licence(facts),
    ]
    write_text(folder / README_NAME, "\n\n".join(parts) + "\n")


def _what(card: StudentCard, vocabulary: Vocabulary, facts: ModelFacts) -> str:
    teachers = (
        "on gold tokens alone, without any teacher"
        if card.gamma == 0
        else f"from frozen teachers of dialogue and of recommendation (gamma {card.gamma})"
    )
    start = "random weights" if facts.pretrained is None else f"`{Path(facts.pretrained).name}`"
    return (
        f"It converses and recommends: its vocabulary has {vocabulary.base_size} tokens of text "
        f"and one for each of {vocabulary.num_items} films. It was trained for {card.steps} steps, "
        f"{teachers}, on the corpus `{facts.source}`, and started from {start}. It names films "
        "that it has learnt about; it looks nothing up, and may name one that does not fit."
    )


def _own_use(card: StudentCard) -> str:
    graph = " --data PREPARED_FOLDER" if card.graph_digest else ""
    # Without one in the folder, the user's own chooses between [REC] and [GEN].
    needs_classifier = card.action_tokens and not card.action_loss and card.classifier is None
    classifier = " --classifier CLASSIFIER_FOLDER" if needs_classifier else ""
    return (
        "With the code that trained it (`conkd`):\n\n"
        f"    python -m trainer.chat --checkpoint FOLDER{graph}{classifier}\n"
        f"    python -m trainer.evaluation --checkpoint FOLDER --data PREPARED_FOLDER{classifier}"
    )


def _use(folder: Path, card: StudentCard, vocabulary: Vocabulary) -> str:
    if architecture_of(folder) != "gpt2":
        return (
            "Its architecture is not one of `transformers`: that code alone loads the model "
            "(`trainer.evaluation.loaded_model.load_model`). `AutoTokenizer` loads the tokenizer."
        )
    rec, gen, pad = control_tokens(vocabulary)
    eos = vocabulary.tokenizer.convert_ids_to_tokens(vocabulary.eos_id)
    action = gen if card.action_tokens else ""
    film = next(iter(film_spellings(vocabulary)), '"Title (Year)"')
    in_front = puts_space_in_front(vocabulary.tokenizer)
    prompt = f"{' ' * in_front}I liked {film}. What else is there?{eos}{action}"
    start = " Start each turn of text with a space: training had one there." if in_front else ""
    own = "the model itself" if card.action_loss else "a turn classifier"
    chooser = own if card.classifier is None else f"`{card.classifier}/`"
    earlier = " Each earlier answer in a prompt starts with its own." if card.action_history else ""
    actions = (
        f" The last token of a prompt is {rec}, and the answer recommends, or {gen}, and it only "
        f"converses; {chooser} chooses between them in the code above.{earlier}"
        if card.action_tokens
        else ""
    )
    return f"""With `transformers` (4.57 and 5):

    from transformers import pipeline

    limits = {{"do_sample": False, "max_new_tokens": {MAX_RESPONSE_TOKENS}}}
    answer = pipeline("text-generation", "FOLDER", **limits)
    answer({prompt!r}, return_full_text=False)

Every turn of a prompt ends with {eos}.{start}{actions} `generate` is greedy and ends after
{MAX_RESPONSE_TOKENS} tokens by itself; a pipeline of transformers 4 has limits of its own.

A film is written as its title in double quotes, {film}, or with its id, as in the file
`tokenizer.json`, if the title is one word or belongs to several films. Any other text stays text.
Film tokens are decoded to their titles without quotes. As with every tokenizer of `transformers`,
text that spells {rec}, {gen}, {pad} or {eos} becomes that token; give the tokenizer
`split_special_tokens=True` for text of strangers."""


def _licence(facts: ModelFacts) -> str:
    lines = ["The code that made this model is under Apache-2.0."]
    if facts.credit:
        lines.append(f"It learnt from {facts.credit}. Keep this line where you share the model.")
    if facts.pretrained is not None:
        lines.append(
            f"It started from `{Path(facts.pretrained).name}`, whose licence holds for it too."
        )
    lines.append("Who trained it decides under which terms the weights are given away.")
    return " ".join(lines)

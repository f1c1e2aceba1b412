"""Build a language model, train it, and leave it as a folder that others can load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from protos.fingerprint import digest_arrays, digest_file
from trainer.checkpoints.files import CHECKPOINTS_NAME, WholeCheckpoint
from trainer.checkpoints.policy import bests_of
from trainer.checkpoints.provenance import RunProvenance, shared_by_ranks
from trainer.common.errors import InputError, UserError
from trainer.config.run import RunConfig
from trainer.data.action_form import ActionForm, action_names
from trainer.data.corpora.table import CORPORA
from trainer.data.dialogue_share import training_examples
from trainer.data.examples import Example, digest_examples
from trainer.data.joint_tokenizer import write_joint_tokenizer
from trainer.data.model_input import InputLimits, prompt_input
from trainer.data.prepared import PreparedData
from trainer.data.vocabulary import Vocabulary
from trainer.engine.checkpoints import Checkpoints, find_intact, find_newest
from trainer.engine.engine import Engine
from trainer.engine.ranks import is_first_rank, on_all_ranks, on_first_rank, sum_over_ranks
from trainer.engine.same_ranks import check_same_on_all_ranks
from trainer.engine.student import Student
from trainer.engine.whole_weights import whole_state
from trainer.kinds.names import RECOMMENDATION
from trainer.lookahead import Teachers
from trainer.models.frozen import check_frozen, read_card
from trainer.models.frozen_recommender import FrozenRecommender, load_recommender
from trainer.models.language_model import (
    LanguageModel,
    build_language_model,
    write_language_model,
)
from trainer.models.model_readme import ModelFacts, write_readme
from trainer.models.student_card import (
    StudentCard,
    check_student_files,
    copy_classifier,
    read_student_card,
    remove_student_card,
    write_student_card,
)
from trainer.selection import Selection
from trainer.telemetry.run_log import read_valid_history
from trainer.train import train


@dataclass(frozen=True)
class Exported:
    """What was written: its architecture and sizes, and after how many steps its weights are."""

    model: LanguageModel
    steps: int


def train_and_export(
    config: RunConfig, data: PreparedData, teachers: Teachers | None, folder: Path
) -> Exported:
    """Train the configured language model; rank 0 writes it and its vocabulary to `folder`."""
    language_model, examples, valid = on_all_ranks(lambda: _build(config, data, teachers))
    # Not before: an input that is refused leaves the model of an earlier run as it was.
    on_first_rank(lambda: remove_student_card(folder))
    student = Student(language_model, loss_chunk_size=config.train.loss_chunk_size)
    provenance = on_all_ranks(
        lambda: _provenance(config, data, language_model, examples, valid, teachers)
    )
    check_same_on_all_ranks(shared_by_ranks(config, provenance))
    engine = Engine(student, config)
    limits = _limits(config, language_model, data.vocabulary)
    selection = None
    if config.train.select == "best":
        selection = Selection(
            config,
            engine,
            vocabulary=data.vocabulary,
            examples=valid,
            limits=limits,
            export=lambda best: _export(config, language_model, best),
        )
    train(
        config,
        engine,
        Checkpoints(engine.deepspeed, config),
        vocabulary=data.vocabulary,
        examples=examples,
        provenance=provenance,
        limits=limits,
        teachers=teachers,
        selection=selection,
    )
    if selection is None:
        _export(config, language_model, folder)
    else:
        on_first_rank(lambda: selection.copy_best(folder))
    on_first_rank(lambda: _write_vocabulary(folder, data.vocabulary, limits.max_tokens))
    steps = config.train.num_steps if selection is None else selection.best.step
    return Exported(language_model, steps)


def _write_vocabulary(folder: Path, vocabulary: Vocabulary, max_tokens: int) -> None:
    """For our own programs, and as one tokenizer for those that know transformers alone."""
    vocabulary.save(folder)
    write_joint_tokenizer(folder, vocabulary, max_tokens=max_tokens)


def complete_student(
    folder: Path, config: RunConfig, data: PreparedData, exported: Exported
) -> None:
    """Make an exported model a student: its classifier, README and, last, its card."""
    classifier = None
    if config.action_tokens and config.classifier is not None:
        classifier = copy_classifier(Path(config.classifier), folder)
    card = StudentCard(
        vocabulary_digest=data.vocabulary.digest,
        graph_digest=data.graphs_digest if any(exported.model.knowledge_size) else "",
        action_tokens=config.action_tokens,
        action_history=config.action_history,
        action_loss=config.action_loss,
        classifier=classifier,
        gamma=config.distill.gamma,
        steps=exported.steps,
    )
    source = data.manifest.source
    facts = ModelFacts(
        source=source,
        credit=CORPORA[source].credit if source in CORPORA else "",
        pretrained=config.student.pretrained,
    )
    write_readme(folder, data.vocabulary, card, facts)
    write_student_card(folder, card)


def is_finished(config: RunConfig, folder: Path) -> bool:
    """Collective: whether the run is over, and its model is whole in `folder`.

    It is over once all steps are done, or `train.patience` has ended it. A newest checkpoint that
    is damaged is not the run's any more, so its last steps are to do. A model that is damaged, of
    an earlier version or with another classifier is exported again.
    """
    checkpoints = Path(config.output) / CHECKPOINTS_NAME

    def decided(is_so: Callable[[], bool]) -> bool:
        """By the first rank: nodes may see other disks, and ranks may differ in their settings."""
        (num_so,) = sum_over_ranks([is_first_rank() and is_so()])
        return bool(num_so)

    def is_last(found: WholeCheckpoint | None) -> bool:
        return found is not None and (
            found.step == config.train.num_steps or ended_early(config, found.step)
        )

    newest = find_newest(checkpoints)
    if not decided(
        lambda: config.train.resume and is_last(newest) and _is_exported(config, folder)
    ):
        return False
    # Only of a run that seems finished are all bytes of the checkpoint read.
    intact = find_intact(checkpoints)
    return decided(lambda: is_last(intact))


def ended_early(config: RunConfig, step: int) -> bool:
    """Whether `train.patience` has ended the run after `step`; not if its log cannot be read."""
    try:
        history = read_valid_history(Path(config.output), step)
    except (UserError, OSError):
        return False
    return bests_of(history)[-1].is_over(config.train.patience)


def _is_exported(config: RunConfig, folder: Path) -> bool:
    """Whether the folder holds a student as this version exports it, whole, with this classifier.

    Reads all of it: what its readers refuse, the command that trained it must export again.
    """
    try:
        card = read_student_card(folder)
        check_student_files(folder, card)
        wanted = config.classifier if config.action_tokens else None
        copied = None if card.classifier is None else folder / card.classifier
        return _weights_of(copied) == _weights_of(wanted)
    except (UserError, OSError):
        return False


def _weights_of(classifier: Path | str | None) -> str | None:
    return None if classifier is None else read_card(Path(classifier), "classifier").weights_digest


def _export(config: RunConfig, model: LanguageModel, folder: Path) -> None:
    """Write the language model from whole parameters, on rank 0."""
    state = whole_state(model.module, zero_stage=config.zero_stage)
    on_first_rank(lambda: write_language_model(folder, model, state))


def _provenance(
    config: RunConfig,
    data: PreparedData,
    model: LanguageModel,
    examples: list[Example],
    valid: list[Example],
    teachers: Teachers | None,
) -> RunProvenance:
    weights = {
        name: read_card(Path(folder), RECOMMENDATION, check_weights=False).weights_digest
        for name, folder in (("item_vectors", config.item_vectors), ("knowledge", config.knowledge))
        if folder is not None
    }
    if config.student.pretrained is not None:
        # The rows after these were drawn here, which may differ in the last bit between machines.
        weights["student.pretrained"] = digest_arrays(
            {
                name: values[: data.vocabulary.base_size].float().numpy()
                for name, values in model.module.state_dict().items()
            }
        )
    return RunProvenance(
        vocabulary=data.vocabulary.digest,
        graphs=data.graphs_digest,
        examples=digest_examples(examples),
        valid=digest_examples(valid) if valid else "",
        weights=weights,
        deepspeed=digest_file(Path(config.deepspeed)) if config.deepspeed else "",
        teachers=teachers.identity if teachers is not None else {},
    )


def resolve_num_steps(config: RunConfig, data: PreparedData) -> RunConfig:
    """The config with `train.steps` in the place of `train.epochs`, if that is given."""
    if config.train.epochs is None:
        return config
    num_examples = data.manifest.splits["train"].responses
    if config.train.share < 1.0:
        num_examples = len(training_examples(data, config.train))
    steps = max(1, config.train.epochs * (num_examples // config.train.batch_size))
    train_config = dataclasses.replace(config.train, steps=steps, epochs=None)
    return dataclasses.replace(config, train=train_config)


def _build(
    config: RunConfig, data: PreparedData, teachers: Teachers | None
) -> tuple[LanguageModel, list[Example], list[Example]]:
    """The model, the training examples, and valid's if the best checkpoint is chosen by them."""
    torch.manual_seed(config.seed)
    # Both settings may name one folder, which is then read once.
    names = {name for name in (config.item_vectors, config.knowledge) if name is not None}
    recommenders: dict[str | None, FrozenRecommender] = {
        name: _recommender(Path(name), data) for name in names
    }
    item_source = recommenders.get(config.item_vectors)
    language_model = build_language_model(
        config.student,
        data.vocabulary,
        item_vectors_IK=None if item_source is None else item_source.items_ID,
        knowledge=recommenders.get(config.knowledge),
    )
    examples = training_examples(data, config.train)
    _check_length(config, _limits(config, language_model, data.vocabulary), examples)
    if teachers is not None:
        _check_teachers(config, teachers, examples)
    return language_model, examples, valid_examples(config, data)


def valid_examples(config: RunConfig, data: PreparedData) -> list[Example]:
    """Valid's examples for a run that selects by them, else none; ValueError if it has none."""
    if config.train.select == "last":
        return []
    examples = data.examples("valid")
    if not examples:
        raise InputError(
            "train.select must be last where valid has no example, got best. "
            "Prepare the data with a valid split."
        )
    return examples


def _recommender(folder: Path, data: PreparedData) -> FrozenRecommender:
    """The frozen recommendation teacher of a folder; it must know this data."""
    check_frozen(folder, RECOMMENDATION, data.vocabulary.digest, check_weights=False)
    recommender, card = load_recommender(folder)
    if card.graph_digest != data.graphs_digest:
        raise InputError(
            f"the recommendation model in {folder} must have the data's graph "
            f"{data.graphs_digest}, got {card.graph_digest}. Fit it on the same prepared data."
        )
    return recommender


def _limits(config: RunConfig, model: LanguageModel, vocabulary: Vocabulary) -> InputLimits:
    """What the model takes of an example, with action tokens as the run has them."""
    items = range(vocabulary.first_item_id, vocabulary.rec_id)
    actions = ActionForm.of(actions_of(config), items, vocabulary.eos_id)
    return dataclasses.replace(model.limits, actions=actions)


def actions_of(config: RunConfig) -> tuple[str, ...]:
    """How the model of a run reads action tokens, by the names of its form."""
    return action_names(
        tokens=config.action_tokens, history=config.action_history, loss=config.action_loss
    )


def _check_length(config: RunConfig, limits: InputLimits, examples: list[Example]) -> None:
    max_length = limits.max_tokens
    longest = max(
        len(prompt_input(each, limits).tokens) + len(each.response_ids) for each in examples
    )
    if longest > max_length:
        raise InputError(
            f"student.max_positions must be at least {longest} for the examples in {config.data}, "
            f"got {max_length}. Prepare the data with a smaller --max-context."
        )


def _check_teachers(config: RunConfig, teachers: Teachers, examples: list[Example]) -> None:
    for name, limits in teachers.limits.items():
        # Of entities and words a teacher takes the last ones, of tokens all or nothing.
        if not limits.max_tokens:
            continue
        to_input = teachers.kinds[config.distill.kind_of(name)].to_input
        longest = max(len(to_input(example, limits).tokens) for example in examples)
        if longest > limits.max_tokens:
            raise InputError(
                f"the {name} teacher must take inputs of {longest} tokens for these examples, got "
                f"one that takes {limits.max_tokens}. Serve one with a larger "
                "student.max_positions."
            )

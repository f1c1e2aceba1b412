"""ReDial's questionnaires: what both workers answered about each film after the dialogue."""

from __future__ import annotations

from typing import Any

from trainer.common.errors import InputError
from trainer.data.dialogue import FilmAnswers, Questionnaires

CODES = (0, 1, 2)
QUESTIONS = ("suggested", "seen", "liked")


def read_questionnaires(record: dict[str, Any]) -> Questionnaires:
    """The answers of both sides; none where a questionnaire is missing, null, [] or {}.

    Raises:
        InputError: naming the answer that has no code of ReDial's.
    """
    return Questionnaires(
        seeker=_answers(record, "initiatorQuestions"),
        recommender=_answers(record, "respondentQuestions"),
    )


def _answers(record: dict[str, Any], key: str) -> dict[str, FilmAnswers]:
    forms = record.get(key)
    if forms is None or forms == []:  # ReDial writes an empty object as an empty list.
        return {}
    if not isinstance(forms, dict):
        raise InputError(
            f"{key} must be an object or [], got {forms!r:.60}. Write [] for no answers."
        )
    return {movie: _film_answers(f"{key}[{movie!r:.60}]", forms[movie]) for movie in forms}


def _film_answers(what: str, form: Any) -> FilmAnswers:
    if not isinstance(form, dict):
        raise InputError(f"{what} must be an object, got {form!r:.60}. Correct or remove it.")
    return FilmAnswers(*(_code(f"{what}.{it}", form.get(it)) for it in QUESTIONS))


def _code(what: str, code: Any) -> int:
    if isinstance(code, bool) or not isinstance(code, int) or code not in CODES:
        raise InputError(f"{what} must be 0, 1 or 2, got {code!r:.60}. Write 2 for no answer.")
    return code

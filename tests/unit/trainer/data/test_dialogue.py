from __future__ import annotations

from trainer.data.dialogue import Dialogue, Mention, Message, split_mentions


def test_split_mentions_handles_glued_mentions_and_junk() -> None:
    movies = {"187028", "111776"}
    assert split_mentions("like@187028.I saw @111776@187028", movies) == [
        "like",
        Mention("187028"),
        ".I saw ",
        Mention("111776"),
        Mention("187028"),
    ]
    assert split_mentions("@99999 and @1870281", movies) == ["@99999 and @1870281"]
    assert split_mentions("", movies) == []


def test_pieces_of_a_dialogue_join_those_of_its_messages() -> None:
    messages = (Message("seeker", "seen @1?"), Message("recommender", "@2 and @1"))
    dialogue = Dialogue("d", messages, {"1": "Heat (1995)"})
    assert list(dialogue.pieces()) == ["seen ", Mention("1"), "?", "@2 and ", Mention("1")]

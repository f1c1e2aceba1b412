"""Requests at temperatures that a teacher takes, and at others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protos import codec, teacher_pb2
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from tests.support.fake_teacher import DESCRIPTION, VOCAB, FakeTeacher, described, rows_after
from tests.support.replica_calls import INVALID, request, run, running, score

RANGE = {"min_temperature": 0.5, "max_temperature": 4.0}


def at(temperature: float, request_id: int = 1) -> teacher_pb2.ScoreRequest:
    message = request(request_id)
    message.temperature = temperature
    return message


@pytest.mark.parametrize(
    ("sent", "used"), [(0.0, 1.0), (-0.0, 1.0), (1.0, 1.0), (0.5, 0.5), (2.5, 2.5), (4.0, 4.0)]
)
def test_temperature_within_the_range_is_taken(sent: float, used: float) -> None:
    check = RequestCheck(described(**RANGE), RequestLimits())
    work = check(at(sent))
    assert work.temperature == used
    assert {each.temperature for each in work.inputs} == {used}


@pytest.mark.parametrize("sent", [0.49, 4.1, -1.0, math.nan, math.inf, -math.inf])
def test_temperature_outside_the_range_is_refused_by_name(sent: float) -> None:
    check = RequestCheck(described(**RANGE), RequestLimits())
    with pytest.raises(ValueError, match=r"temperature must be in \[0.5, 4\] for this dialogue"):
        check(at(sent))


@pytest.mark.parametrize("sent", [0.5, 1.0001, 2.0])
def test_teacher_that_names_no_range_takes_1_alone(sent: float) -> None:
    check = RequestCheck(DESCRIPTION, RequestLimits())
    assert check(at(1.0)).temperature == 1.0
    with pytest.raises(ValueError, match=r"temperature must be in \[1, 1\]"):
        check(at(sent))


def test_stream_goes_on_beside_a_request_at_a_wrong_temperature() -> None:
    async def scenario() -> None:
        async with running(FakeTeacher(described(**RANGE))) as (_, stub):
            sent = [at(0.0, 1), at(5.0, 2), at(2.0, 3)]
            replies = await score(stub, sent)
            assert replies[2].error.code == INVALID
            assert "temperature must be in [0.5, 4]" in replies[2].error.message
            probs_TV = rows_after(torch.tensor([2, 4, 5])).double()
            for request_id, temperature in ((1, 1.0), (3, 2.0)):
                rows = codec.decode(replies[request_id].block, num_rows=3, vocab_size=VOCAB)
                wanted_TV = torch.log_softmax(probs_TV / temperature, -1).numpy()
                got_TV = rows.log_probs_E.reshape(3, VOCAB)
                np.testing.assert_allclose(got_TV, wanted_TV, atol=1e-5)
                own_T = probs_TV.exp()[:, 6:9].sum(-1).numpy()
                np.testing.assert_allclose(rows.item_mass_R, own_T, atol=1e-6)

    run(scenario)

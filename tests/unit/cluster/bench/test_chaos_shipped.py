"""The parts of the scenarios under shipped settings: links, a caller, figures."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.bench.chaos.caller import BATCH, Caller, client_log
from cluster.bench.chaos.link import HOST, Link
from cluster.bench.chaos.shipped import FIGURES, SCENARIOS, Stand, shipped_figures
from tests.support.client_world import examples
from trainer.config.teachers import TeachersConfig


async def echo_server(name: bytes) -> tuple[asyncio.Server, str]:
    """Answers every line with its own name and the line."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(name + line)
        writer.close()

    server = await asyncio.start_server(on_connection, HOST, 0)
    return server, f"{HOST}:{server.sockets[0].getsockname()[1]}"


@dataclass
class End:
    """One connection through a link."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def of(cls, link: Link) -> End:
        port = int(link.address.rpartition(":")[2])
        return cls(*await asyncio.open_connection(HOST, port))

    async def say(self, line: bytes) -> bytes:
        self.writer.write(line)
        try:
            return await self.reader.readline()
        except ConnectionError:
            return b""


def test_link_leads_new_connections_elsewhere_and_breaks_all_at_a_flap() -> None:
    async def story() -> None:
        link = Link()
        await link.open()
        (first, first_address), (second, second_address) = (
            await echo_server(b"a "),
            await echo_server(b"b "),
        )
        link.lead_to(first_address)
        old = await End.of(link)
        assert await old.say(b"x\n") == b"a x\n"
        link.lead_to(second_address)
        new = await End.of(link)
        assert (await old.say(b"y\n"), await new.say(b"y\n")) == (b"a y\n", b"b y\n")
        assert link.flap() == 2
        assert (await old.say(b"z\n"), await new.say(b"z\n")) == (b"", b"")
        again = await End.of(link)
        assert await again.say(b"x\n") == b"b x\n"
        await link.close()
        assert await again.say(b"x\n") == b""
        for server in (first, second):
            server.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_link_to_where_nobody_listens_breaks_at_once() -> None:
    async def story() -> None:
        link = Link()
        await link.open()
        gone, address = await echo_server(b"")
        gone.close()
        await gone.wait_closed()
        link.lead_to(address)
        assert await (await End.of(link)).say(b"x\n") == b""
        await link.close()

    asyncio.run(asyncio.wait_for(story(), 20))


class FakeClient:
    """Futures that the test completes."""

    def __init__(self) -> None:
        self.asked: list[Future[Any]] = []

    def submit(self, batch: Any) -> Future[Any]:
        assert len(batch) == BATCH
        self.asked.append(Future())
        return self.asked[-1]


def test_caller_keeps_so_many_open_until_one_fails() -> None:
    async def story() -> None:
        client: Any = FakeClient()
        caller = Caller(client, examples(*[1] * (2 * BATCH)))
        asking = asyncio.create_task(caller.keep_open(3))
        while len(client.asked) < 3:
            await asyncio.sleep(0)
        client.asked[1].set_result({})
        while len(client.asked) < 4:
            await asyncio.sleep(0)
        assert (len(caller.open), caller.num_answers) == (3, 1)
        client.asked[0].set_exception(RuntimeError("no teacher"))
        await asking
        for each in client.asked[2:]:
            each.set_result({})
        with pytest.raises(RuntimeError, match="no teacher"):
            await caller.finish()
        assert caller.num_answers == len(client.asked) - 1

    asyncio.run(asyncio.wait_for(story(), 20))


def test_caller_asks_about_rows_and_begins_again_at_the_end() -> None:
    async def story() -> None:
        client: Any = FakeClient()
        caller = Caller(client, examples(*[2] * BATCH, *[3] * BATCH))
        # 8, 12, 8 rows.
        caller.ask_rows(21)
        assert len(client.asked) == len(caller.open) == 3

    asyncio.run(story())


def test_figures_are_medians_of_what_was_measured() -> None:
    rows: list[Any] = [
        *({"scenario": "d", "frozen_directory_s": seconds} for seconds in (30.0, 10.0, 11.0)),
        {"scenario": "b", "forwards_per_request": 1.0, "deadline_s": 5.0},
        {"scenario": "b", "forwards_per_request": 1.5, "deadline_s": 5.0},
    ]
    assert shipped_figures(rows) == {"frozen_directory_s": 11.0, "forwards_per_request": 1.25}
    assert len(FIGURES) == len(SCENARIOS)


def test_settings_are_those_that_ship_but_for_the_address() -> None:
    link: Any = Link()
    link.address = "127.0.0.1:1"
    nothing: Any = None
    stand = Stand(fleet=nothing, data=nothing, spare=nothing, directory=link, links=())
    assert stand.config == TeachersConfig(directory="127.0.0.1:1")
    assert (stand.config.deadline_s, stand.config.hedge_percent) == (60.0, 0.0)


def test_warnings_of_a_client_go_to_a_file_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("trainer.teacher_client.dispatch")
    with client_log(tmp_path / "client.log"):
        logger.warning("request 1 leaves")
    logger.warning("request 2 leaves")
    assert "request 1 leaves" in (tmp_path / "client.log").read_text()
    assert caplog.messages == ["request 2 leaves"]

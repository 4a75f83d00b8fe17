"""The soak's clients see what they are there to see: negative controls, with a server that does each kind of wrong."""

from __future__ import annotations

import asyncio
import json

from tests.soak.client import Connection, Tally, ask


async def wrong_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Does what each request asks for."""
    while not reader.at_eof():
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            break
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        body = json.loads(await reader.readexactly(length))
        answer = json.dumps({"nonce": "another" if body["do"] == "mix up" else body["nonce"]}).encode()
        status = {"fail": b"500 Internal Server Error", "refuse": b"503 Service Unavailable"}.get(body["do"], b"200 OK")
        whole = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(answer), answer)
        if body["do"] == "cut off":
            writer.write(whole[:-3])
            break
        if body["do"] == "hang up":
            break
        writer.write(whole)
    writer.close()


async def played(*what: str) -> Tally:
    tally = Tally()
    serving: list[asyncio.Task[None]] = []

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.ensure_future(wrong_server(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    connection = Connection(f"http://{host}:{port}")
    for do in what:
        await ask(tally, connection, "m", do=do)
    connection.close()
    server.close()
    await asyncio.gather(*serving)
    return tally


def test_what_is_well_is_not_counted_as_lost() -> None:
    tally = asyncio.run(played("answer", "answer"))
    assert (tally.sent, tally.statuses[200], tally.lost, tally.wrong) == (2, 2, [], [])


def test_each_kind_of_loss_is_seen() -> None:
    for do, words in (
        ("cut off", "IncompleteReadError"),
        ("hang up", "IncompleteReadError"),
        ("fail", "500"),
        ("refuse", "503"),
    ):
        tally = asyncio.run(played("answer", do, "answer"))
        assert tally.sent == 3
        assert len(tally.lost) == 1
        assert words in tally.lost[0]


def test_another_ones_answer_is_seen() -> None:
    assert len(asyncio.run(played("answer", "mix up")).wrong) == 1


def test_nobody_there_is_no_request() -> None:
    tally = Tally()
    assert asyncio.run(ask(tally, Connection("http://127.0.0.1:1"), "m")) == 0
    assert (tally.sent, tally.refused) == (0, 1)

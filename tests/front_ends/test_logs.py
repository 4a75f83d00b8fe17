"""What front ends log is written by the main process, as if it had logged it, with the front end's number."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import msgspec
import pytest

from pdserver.front_ends.process import lines
from pdserver.logs import forwarding
from pdserver.logs.access import AccessLog, Entry
from pdserver.logs.files import JsonFormatter, TextFormatter
from pdserver.logs.forwarding import Forwarder, Logged
from tests.logged import own_records

_decoder = msgspec.msgpack.Decoder(Logged)


def passed_on(say: Callable[[logging.Logger], None], name: str = "pdserver.http") -> list[Logged]:
    """What a front end passes on while `say` logs, as it comes out at the other end."""
    come: list[Logged] = []

    async def run() -> None:
        logger = logging.getLogger(name)
        handler = Forwarder(lambda logged: come.append(_decoder.decode(msgspec.msgpack.encode(logged))))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
        try:
            say(logger)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
            logger.removeHandler(handler)

    asyncio.run(run())
    return come


def written(logged: list[Logged], caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for each in logged:
            forwarding.write(each, 3)
    return own_records(caplog)


def test_a_record_keeps_all_but_its_process(caplog: pytest.LogCaptureFixture) -> None:
    [record] = written(passed_on(lambda logger: logger.warning("%s: %d", "slow", 5)), caplog)
    assert record.getMessage() == "front end 3: slow: 5"
    assert (record.name, record.levelname, record.__dict__["front_end"]) == ("pdserver.http", "WARNING", 3)
    assert TextFormatter().format(record).endswith(" [WARNING] pdserver.http - front end 3: slow: 5")


def test_a_traceback_comes_along(caplog: pytest.LogCaptureFixture) -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            raise ValueError("of the front end")
        except ValueError:
            logger.exception("it failed")

    [record] = written(passed_on(fail), caplog)
    assert TextFormatter().format(record).splitlines()[-1] == "ValueError: of the front end"
    assert "ValueError: of the front end" in msgspec.json.decode(JsonFormatter().format(record))["exception"]


def test_other_threads_may_log(caplog: pytest.LogCaptureFixture) -> None:
    def in_thread(logger: logging.Logger) -> None:
        thread = threading.Thread(target=logger.error, args=("from a thread",))
        thread.start()
        thread.join()

    [record] = written(passed_on(in_thread), caplog)
    assert record.getMessage() == "front end 3: from a thread"


def test_the_level_of_the_main_process_decides(caplog: pytest.LogCaptureFixture) -> None:
    passed = passed_on(lambda logger: logger.warning("not of interest"))
    logging.getLogger("pdserver.http").setLevel(logging.ERROR)
    try:
        assert written(passed, caplog) == []
    finally:
        logging.getLogger("pdserver.http").setLevel(logging.NOTSET)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_what_a_front_end_prints_is_read_line_by_line(size: int) -> None:
    """However it comes: where it hangs, it prints in many small pieces."""
    printed = '  File "x.py", line 1 in ü\n\nSegmentation fault\n' + "x" * 20_000 + "\nlast"

    async def write(output: asyncio.StreamReader) -> None:
        data = printed.encode()
        for start in range(0, len(data), size):
            output.feed_data(data[start : start + size])
            await asyncio.sleep(0)
        output.feed_eof()

    async def read() -> list[str]:
        output = asyncio.StreamReader()
        writing = asyncio.create_task(write(output))
        found = [line async for line in lines(output)]
        await writing
        return found

    found = asyncio.run(read())
    assert (found[:3], found[-1]) == (printed.split("\n")[:3], "last")
    assert "".join(found[3:-1]) == "x" * 20_000


@pytest.mark.parametrize("each", [False, True])
def test_access_log_lines_are_the_same_as_others(caplog: pytest.LogCaptureFixture, each: bool) -> None:
    entry: Entry = (1.5, "127.0.0.1:5", b"GET", b"/ping", 200, 0.001, "", "m")

    def ask(_: logging.Logger) -> None:
        access = AccessLog(each=each)
        access.add(entry)
        access.close()

    [record] = written(passed_on(ask, "pdserver.access"), caplog)
    line = '/127.0.0.1:5 "GET /ping HTTP/1.1" 200 1.000 - m'
    assert record.getMessage().endswith(line)
    assert "front end" not in record.getMessage()
    if each:
        assert (record.getMessage(), record.__dict__["target"], record.__dict__["status"]) == (line, "/ping", 200)

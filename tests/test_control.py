"""The control socket: one line in, one line out, whatever comes in; nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from paxmux.engine.errors import Code, DataDirError, NodeStopped, Overloaded, PaxmuxError
from paxmux.shards import control
from paxmux.shards.control import ControlServer, request
from tests.event_loop import in_loop


async def echo(message: dict[str, Any]) -> Any:
    return {"heard": message["word"], 3: "a number as key"}


async def refuse(_: dict[str, Any]) -> Any:
    raise Overloaded("not now")


async def fail(_: dict[str, Any]) -> Any:
    raise ZeroDivisionError("a bug")


class Serving:
    def __init__(self, data_dir: Path) -> None:
        self.server = ControlServer(data_dir, {"echo": echo, "refuse": refuse, "fail": fail})

    async def __aenter__(self) -> ControlServer:
        self.server.start()
        return self.server

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()


async def ask(data_dir: Path, message: dict[str, Any], timeout_s: float = 10) -> Any:
    return await asyncio.to_thread(request, data_dir, message, timeout_s)


async def open_raw(data_dir: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(data_dir / "control.sock")


@in_loop
async def test_a_request_is_answered(tmp_path: Path) -> None:
    async with Serving(tmp_path):
        assert await ask(tmp_path, {"op": "echo", "word": "hi"}) == {"heard": "hi", "3": "a number as key"}


@in_loop
async def test_errors_carry_words_and_code(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Serving(tmp_path):
        with pytest.raises(PaxmuxError, match="not now"):
            await ask(tmp_path, {"op": "refuse"})
        with pytest.raises(PaxmuxError, match=r"unknown op 'dance', expected one of echo, fail, refuse"):
            await ask(tmp_path, {"op": "dance"})
        with pytest.raises(PaxmuxError, match='key "op"'):
            await ask(tmp_path, {"word": 1})
        with pytest.raises(PaxmuxError, match="internal error: ZeroDivisionError: a bug"):
            await ask(tmp_path, {"op": "fail"})
    assert "control op 'fail' failed" in caplog.text


@in_loop
async def test_several_requests_share_a_connection_and_garbage_is_answered(tmp_path: Path) -> None:
    async with Serving(tmp_path):
        reader, writer = await open_raw(tmp_path)
        writer.write(b'nonsense\n[1]\n{"op": 5}\n{"op": "refuse"}\n{"op": "echo", "word": 1}\n')
        answers = [orjson.loads(await asyncio.wait_for(reader.readline(), 10)) for _ in range(5)]
        assert [answer["ok"] for answer in answers] == [False, False, False, False, True]
        assert answers[0]["code"] == Code.SYSTEM_ERROR
        assert answers[3]["code"] == Code.OVERLOADED
        writer.close()


@in_loop
async def test_an_endless_line_is_refused_and_the_connection_closed(tmp_path: Path) -> None:
    async with Serving(tmp_path):
        reader, writer = await open_raw(tmp_path)
        writer.write(b"x" * (3 * control.REQUEST_MAX_BYTES) + b"\n")
        answer = orjson.loads(await asyncio.wait_for(reader.readline(), 10))
        assert "at most 65536 bytes" in answer["error"]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 10)
        writer.close()
        assert await ask(tmp_path, {"op": "echo", "word": 1})


@in_loop
async def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTIONS_MAX", 2)
    async with Serving(tmp_path) as server:
        kept = [await open_raw(tmp_path) for _ in range(2)]
        for reader, writer in kept:
            writer.write(b'{"op": "echo", "word": 1}\n')
            await asyncio.wait_for(reader.readline(), 10)
        reader, writer = await open_raw(tmp_path)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert server.refused == 1
        for _, open_writer in [*kept, (reader, writer)]:
            open_writer.close()


@in_loop
async def test_the_socket_is_for_its_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with Serving(tmp_path):
        mode = (tmp_path / "control.sock").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        reader, writer = await open_raw(tmp_path)
    # Answered, refused or reset, as the moment has it; but never left hanging.
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NodeStopped, match="no node runs"):
        await ask(tmp_path, {"op": "echo"})
    del reader, writer
    await asyncio.sleep(0.01)
    assert set(os.listdir("/proc/self/fd")) <= before


AS_ANOTHER_USER = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgroups([])
os.setgid(4711)
os.setuid(4711)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("control.sock")
    try:
        sock.sendall(b'{"op": "echo", "word": 1}\\n')
        sys.stdout.buffer.write(sock.recv(1000))
    except ConnectionError:
        pass
"""


@in_loop
async def test_another_user_is_refused_by_the_kernel_s_word_whatever_the_file_s_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Serving(tmp_path) as server:
        assert await ask(tmp_path, {"op": "echo", "word": 1})
        if os.geteuid() == 0:
            for place in (tmp_path, *tmp_path.parents[:2]):
                place.chmod(0o711)
            (tmp_path / "control.sock").chmod(0o666)
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", AS_ANOTHER_USER, str(tmp_path), stdout=asyncio.subprocess.PIPE
            )
            said, _ = await asyncio.wait_for(child.communicate(), 30)
            assert (child.returncode, said) == (0, b"")
        else:
            monkeypatch.setattr(control.os, "geteuid", lambda: os.getuid() + 1)
            reader, writer = await open_raw(tmp_path)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        assert server.refused == 1


@in_loop
async def test_a_socket_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NodeStopped, match="no node runs"):
        request(tmp_path, {"op": "echo"})
    async with Serving(tmp_path):
        assert await ask(tmp_path, {"op": "echo", "word": 2})


@in_loop
async def test_another_file_in_its_place_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("precious")
    with pytest.raises(DataDirError, match="expected nothing or a socket"):
        ControlServer(tmp_path, {}).start()
    assert (tmp_path / "control.sock").read_text() == "precious"


@in_loop
async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    async with Serving(deep):
        assert await ask(deep, {"op": "echo", "word": "far"})
    assert list(deep.iterdir()) == []


def test_a_missing_directory_is_a_node_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(NodeStopped, match="expected a directory"):
        request(tmp_path / "none", {"op": "status"})


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"", "hung up"), (b"half", "hung up"), (b"no json\n", "no JSON"), (b"[1]\n", "answered")],
)
def test_a_node_that_answers_nonsense(tmp_path: Path, answer: bytes, words: str) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        async with await asyncio.start_unix_server(serve, tmp_path / "control.sock"):
            with pytest.raises(PaxmuxError, match=words):
                await ask(tmp_path, {"op": "status"})

    asyncio.run(main())


@in_loop
async def test_a_silent_node_is_not_waited_for_longer_than_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen(1)
        with pytest.raises(PaxmuxError, match=r"did not answer within 0\.05 s"):
            await ask(tmp_path, {"op": "status"}, timeout_s=0.05)

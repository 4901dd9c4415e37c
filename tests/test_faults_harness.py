"""The fault proxy does what it says, seen by a plain client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as TooLate
from redis.retry import Retry

from tests import faults
from tests.fault_proxy import FaultProxy
from tests.faults import HANDSHAKE
from tests.resp import Framer
from tests.servers import Server
from tests.support import wait_until

Connect = Callable[..., redis.Redis]


@pytest.fixture
def proxy(valkey: Server) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", valkey.port)) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Connect]:
    clients: list[redis.Redis] = []

    def make(timeout: float = 0.15, proxy: FaultProxy = proxy) -> redis.Redis:
        retry = Retry(NoBackoff(), 0)
        client = redis.Redis.from_url(
            proxy.url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry, decode_responses=True
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def direct(valkey: Server, pool: str) -> Iterator[redis.Redis]:
    """A client past the proxy. It clears the test's key after."""
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        yield client
        client.delete(pool)


def _is_lost(call: Callable[[], object]) -> None:
    with pytest.raises(Lost):
        call()


def test_without_a_fault_all_passes_and_is_counted(proxy: FaultProxy, connect: Connect, pool: str) -> None:
    client = connect(5.0)
    assert client.set(pool, "x" * 200_000)
    assert client.get(pool) == "x" * 200_000
    with client.pipeline() as pipe:
        assert pipe.incr(pool + "n").incr(pool + "n").delete(pool).execute() == [1, 2, 1]
    assert client.config_get("maxmemory") == {"maxmemory": "0"}
    assert (proxy.seen("INCRBY"), proxy.executed("INCRBY", "GET"), proxy.answered("SET")) == (2, 3, 1)
    assert proxy.seen("CLIENT SETINFO") == 2 <= proxy.seen("CLIENT")
    assert proxy.seen("HELLO") == proxy.connections == 1
    proxy.forget()
    assert proxy.seen() == 0


def test_refuse_closes_the_port_and_lifting_it_opens_the_same(proxy: FaultProxy, connect: Connect) -> None:
    client = connect()
    assert client.ping()
    proxy.set(faults.Refuse())
    with pytest.raises(Lost):
        client.ping()
    with pytest.raises(Lost, match="refused"):
        client.ping()
    proxy.clear()
    assert client.ping()


def test_unreachable_keeps_a_new_connection_waiting(proxy: FaultProxy, connect: Connect) -> None:
    old = connect()
    assert old.ping()
    proxy.set(faults.Unreachable())
    with pytest.raises(TimeoutError), socket.create_connection(("127.0.0.1", proxy.port), 0.15):
        pass
    assert old.ping()
    proxy.clear()
    assert connect().ping()


@pytest.mark.parametrize("reset", [False, True])
def test_hang_up_ends_a_connection_as_it_is_accepted(proxy: FaultProxy, connect: Connect, reset: bool) -> None:
    proxy.set(faults.HangUp(reset=reset))
    with pytest.raises(Lost):
        connect().ping()
    assert proxy.seen() == 0


@pytest.mark.parametrize(
    ("fault", "error", "executed"),
    [
        (faults.Silence(), TooLate, 0),
        (faults.SilenceAfter(), TooLate, 1),
        (faults.Delay(0.4), TooLate, 1),
        (faults.Half(), TooLate, 1),
        (faults.CutReply(), Lost, 1),
        (faults.CutReply(reset=True), Lost, 1),
        (faults.LostReply(), Lost, 1),
        (faults.LostReply(reset=True), Lost, 1),
        (faults.Close(), Lost, 0),
        (faults.Close(reset=True), Lost, 0),
        (faults.Inject(faults.LOADING), redis.BusyLoadingError, 0),
        (faults.Inject(faults.READONLY), redis.ReadOnlyError, 0),
        (faults.Inject(faults.OOM), redis.OutOfMemoryError, 0),
        (faults.Inject(faults.NOSCRIPT), redis.exceptions.NoScriptError, 0),
        (faults.Inject(faults.moved(1234, 1)), redis.exceptions.MovedError, 0),
        (faults.Inject(faults.ask(1234, 1), executed=True), redis.exceptions.AskError, 1),
        (faults.Inject(faults.ENDLESS_BULK), TooLate, 0),
        (faults.Inject(faults.ENDLESS_ARRAY), TooLate, 0),
        (faults.Inject(faults.GARBAGE), InvalidResponse, 0),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, faults.Fault) else "",
)
def test_what_the_client_sees_and_whether_the_server_carried_it_out(
    proxy: FaultProxy,
    connect: Connect,
    direct: redis.Redis,
    pool: str,
    fault: faults.Fault,
    error: type[Exception],
    executed: int,
) -> None:
    proxy.set(fault, but=HANDSHAKE)
    with pytest.raises(error):
        connect().incr(pool)
    assert proxy.seen("INCRBY") == 1
    assert int(direct.get(pool) or 0) == proxy.executed("INCRBY") == executed
    proxy.clear()
    assert connect().incr(pool) == executed + 1


def test_deep_arrays_reach_the_client(proxy: FaultProxy) -> None:
    proxy.set(faults.Inject(faults.DEEP_ARRAYS))
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
        client.sendall(b"PING\r\n")
        received = b""
        while len(received) < len(faults.DEEP_ARRAYS):
            received += client.recv(65_536)
    assert received == faults.DEEP_ARRAYS


def test_a_drip_outlasts_the_timeout_of_each_read(proxy: FaultProxy, connect: Connect, pool: str) -> None:
    client = connect(0.15)
    client.set(pool, "123456")
    proxy.set(faults.Drip(0.05))
    started = time.monotonic()
    assert client.get(pool) == "123456"
    assert time.monotonic() - started > 0.5
    proxy.set(faults.Trickle(0.02), only={"GET"})
    worker = threading.Thread(target=lambda: _is_lost(lambda: client.get(pool)))
    worker.start()
    worker.join(0.4)
    assert worker.is_alive()
    proxy.clear()
    worker.join(5)
    assert not worker.is_alive()


def test_a_late_or_frozen_command_is_carried_out_after_its_client_has_gone(
    proxy: FaultProxy, connect: Connect, direct: redis.Redis, pool: str
) -> None:
    proxy.set(faults.Late(0.3), only={"INCRBY"})
    with pytest.raises(TooLate):
        connect().incr(pool)
    assert direct.get(pool) is None
    proxy.wait_executed("INCRBY")
    proxy.set(faults.Freeze())
    with pytest.raises(TooLate):
        connect().incr(pool)
    proxy.set(faults.Freeze(), only={"INCRBY"})
    with pytest.raises(TooLate):
        connect().incr(pool)
    assert direct.get(pool) == "1"
    proxy.clear()
    wait_until(lambda: direct.get(pool) == "2")


def test_a_black_hole_fills_the_clients_send_buffer(
    proxy: FaultProxy, connect: Connect, direct: redis.Redis, pool: str
) -> None:
    client = connect(0.3)
    assert client.ping()
    proxy.set(faults.BlackHole())
    with pytest.raises(TooLate, match="writing"):
        client.set(pool, "x" * 20_000_000)
    assert proxy.seen("SET") == 0
    proxy.clear()
    assert client.ping()
    assert direct.get(pool) is None


def test_conditions_choose_the_commands_that_a_fault_meets(proxy: FaultProxy, connect: Connect, pool: str) -> None:
    proxy.set(faults.Inject(faults.OOM), only={"INCRBY"}, after=1, times=2)
    proxy.add(faults.Inject(faults.READONLY), where=lambda command: b"odd" in command.words)
    proxy.add(faults.Close(), connection=2, but=HANDSHAKE)
    client = connect(5.0)
    assert client.incr(pool) == 1
    for _ in range(2):
        with pytest.raises(redis.OutOfMemoryError):
            client.incr(pool)
    assert client.incr(pool) == 2
    with pytest.raises(redis.ReadOnlyError):
        client.get("odd")
    with pytest.raises(Lost):
        connect().get(pool)
    assert connect().get(pool) == "2"
    proxy.set(faults.Inject(faults.LOADING), only={"HELLO", "CLIENT SETINFO"})
    assert client.get(pool) == "2"
    with pytest.raises(redis.BusyLoadingError):
        connect().get(pool)


def test_the_death_of_the_server_reaches_the_client(valkey: Server, connect: Connect) -> None:
    del valkey
    with socket.create_server(("127.0.0.1", 0)) as server, FaultProxy(server.getsockname()[:2]) as proxy:
        client = connect(5.0, proxy)
        worker = threading.Thread(target=lambda: _is_lost(client.ping))
        worker.start()
        accepted, _ = server.accept()
        proxy.wait_seen()
        accepted.close()
        worker.join(5)
        assert not worker.is_alive()
        assert proxy.executed() == 0


def test_a_stream_is_cut_into_values_wherever_it_breaks() -> None:
    values = [
        b"+OK\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"$5\r\na\r\nbc\r\n", b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n",
        b"%1\r\n+k\r\n*0\r\n", b"|1\r\n+ttl\r\n:3\r\n+x\r\n", b">2\r\n+push\r\n:1\r\n", b"=7\r\ntxt:abc\r\n", b"#t\r\n",
    ]  # fmt: skip
    stream = b"".join(values)
    for size in range(1, 20):
        framer = Framer()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [value for piece in pieces for value in framer.feed(piece)] == values

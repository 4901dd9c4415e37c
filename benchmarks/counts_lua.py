"""What a script costs in the Lua machine itself: Lua 5.1 of the package `lupa`, with the commands of a real store.

Instructions of the virtual machine, calls, and bytes allocated are exact, as time is not. What a called function of C
does inside (a pattern that is matched, a command) is one call, whatever it takes.
"""

from __future__ import annotations

import time
from typing import Any

import lupa.lua51  # type: ignore[import-untyped]
import redis

from benchmarks.counts_pools import Pools, Sync
from benchmarks.counts_rows import Row
from benchmarks.counts_store import Counts
from sendguard.store import scripts

_SECONDS_APART = 5
_FUNCTIONS = {script.sha: script.function for script in scripts.SCRIPTS.values()}
"""What a server calls which the guard, to a client of another make, asks for by digest."""
_HARNESS = """
function(ask)
  local sethook, memory, rest = debug.sethook, collectgarbage, 0
  local instructions, calls
  local function hook(event)
    if event == 'count' then instructions = instructions + 1 else calls = calls + 1 end
  end
  local functions = {}
  redis = {
    register_function = function(told) functions[told.function_name] = told.callback end,
    error_reply = function(text) return { err = text } end,
    status_reply = function(text) return { ok = text } end,
    call = function(...)  -- what it takes to ask from here is not the script's
      sethook()
      local before = memory('count')
      local reply = ask(...)
      rest = rest + memory('count') - before
      sethook(hook, 'c', 1)
      return reply
    end,
  }
  return function(name, keys, args)
    local script = functions[name]
    instructions, calls, rest = 0, 0, 0
    memory('collect')
    memory('stop')
    local before = memory('count')
    sethook(hook, 'c', 1)
    local reply = script(keys, args)
    sethook()
    local bytes = (memory('count') - before - rest) * 1024
    memory('restart')
    return reply, instructions, calls, bytes
  end
end
"""


class LuaRedis(redis.Redis):
    """A client whose scripts run here, as functions in a Lua of its own, and only their commands in the store.

    counts: of the scripts that ran since it was last emptied.
    """

    def __init__(self, url: str) -> None:
        pool = redis.ConnectionPool.from_url(url, protocol=2)
        super().__init__(connection_pool=pool)
        self.counts: Counts = {}
        self._connection: Any = pool.get_connection()
        self._lua = lupa.lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._run = self._lua.eval(_HARNESS)(self._ask)
        self._lua.execute(scripts.LIBRARY.source.partition("\n")[2])
        self._now = int(time.time())

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As the client's own, but for scripts."""
        if args[0] != "EVALSHA":
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        _, sha, keys, *words = args
        function = _FUNCTIONS[sha].encode()
        return self._evaluate(function, int(keys), [str(each).encode() for each in words])

    def _evaluate(self, function: bytes, keys: int, words: list[bytes]) -> Any:
        self._now += _SECONDS_APART
        table = self._lua.table_from
        reply, *counts = self._run(function, table(words[:keys]), table(words[keys:]))
        for name, count in zip(("instructions", "calls", "bytes allocated"), counts, strict=True):
            self.counts[name] = self.counts.get(name, 0) + int(count)
        return _from_lua(reply)

    def _ask(self, *words: Any) -> Any:
        if words == (b"TIME",):  # so that the pauses between sends are the same every time
            return self._to_lua([b"%d" % self._now, b"250000"])
        self._connection.send_command(*[b"%.17g" % word if isinstance(word, float | int) else word for word in words])
        return self._to_lua(self._connection.read_response())

    def _to_lua(self, reply: Any) -> Any:
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(each) for each in reply])
        return False if reply is None else reply

    def close(self) -> None:
        """As the client's own."""
        self._connection.disconnect()
        super().close()


def _from_lua(reply: Any) -> Any:
    """What the server would answer."""
    if isinstance(reply, float):
        return int(reply)
    if reply is None or reply is False:
        return None
    if lupa.lua51.lua_type(reply) != "table":
        return reply
    if (error := reply[b"err"]) is not None:
        raise redis.ResponseError(error.decode())
    return [_from_lua(each) for each in reply.values()]


def count_instructions(pools: Pools, row: Row, lines: int) -> Counts:
    """What the scripts of one call cost in a pool of so many lines."""
    client = LuaRedis(pools.url)
    do = Sync(client, row)
    try:
        for _ in range(2):  # the first lets the machine's stack grow
            pools.renew(lines)
            call = do.call(row.prepare(do))
            client.counts = {}
            row.check(call())
        return client.counts
    finally:
        do.close()
        client.close()

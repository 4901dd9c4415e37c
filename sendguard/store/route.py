"""How one call finds the server that may answer it: loading what it runs, following a move, trying once more. Pure.

`route` is a generator that both clients carry out: it yields a `Hop` or a `Pause`, and is sent the reply or the error.
Its first hop is `first_hop`, by which nearly every call is answered.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from sendguard.store.address import Address
from sendguard.store.scripts import DECIDE, Call, Command, Reply
from sendguard.store.wire import command, eval_source, evalsha, fcall, load_library

_AGAIN_AFTER = 0.01
"""Seconds before a call is tried again on a slot that is being migrated."""
_MAX_REDIRECTS = 5
_FUNCTION_MISSING = "Function not found"
"""What a server says that has functions, but not this one."""
_NO_FUNCTIONS = (_FUNCTION_MISSING, "unknown command", "'fcall'", "'function|load'")
"""What a server says that has none, or that does not let this user call or load them."""
_NO_SCRIPTS = ("'evalsha'", "'eval'")
"""What a server says that does not let this user run scripts."""


class NotSent(Exception):
    """No connection could be had, so that the store has seen nothing of the call. `kind`: of the error."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(kind)


class Renewed(Exception):
    """The server may be another one, or have been restarted, since the last call: nothing of this one was sent."""


class Hop(NamedTuple):
    """Send bytes to a server and read one reply. address: None for the primary, wherever it is.

    wary: raise `Renewed` instead of connecting anew where a connection was lost.
    """

    data: bytes
    address: Address | None
    asking: bool
    wary: bool


class Pause(NamedTuple):
    """Sleep for some seconds."""

    seconds: float


class Primary:
    """Where the pool's primary is known to be. moves: whether that can change. watched: whether decisions are wary.

    functions: whether it has functions, and lets this user load and call them; taken for true until it says otherwise,
    and again of each new connection, as an administrator may have loaded them since.
    """

    def __init__(self, *, moves: bool) -> None:
        self.moves, self.watched, self.functions = moves, False, True
        self.address: Address | None = None


Route = Generator[Hop | Pause, Reply, Reply]


def first_hop(call: Call | Command, primary: Primary) -> Hop:
    """How a call is tried first."""
    if isinstance(call, Call):
        data = fcall(call) if primary.functions else evalsha(call)
        return Hop(data, primary.address, False, primary.watched and call.script.name == DECIDE.name)
    return Hop(command(call), primary.address, False, False)


def route(call: Call | Command, primary: Primary) -> Route:
    """The hops of one call. An error that is not mended on the way is raised as it came.

    What the store may have carried out is sent again only where that does no harm (`Call.repeatable`); so a lost reply
    never spends twice.
    """
    data, _, _, wary = first_hop(call, primary)
    ask: Address | None = None
    redirects, again, loads, as_script = 0, True, False, False
    while True:
        try:
            reply = yield Hop(data, ask or primary.address, ask is not None, wary)
            if not loads or not isinstance(call, Call):
                return reply
            loads, data = False, fcall(call)
            continue  # to the same server
        except Renewed:
            raise
        except NoScriptError:
            if not isinstance(call, Call) or redirects >= _MAX_REDIRECTS:
                raise
            redirects, data = redirects + 1, eval_source(call)
            continue
        except AskError as error:  # of which MovedError is a kind
            redirects += 1
            if redirects > _MAX_REDIRECTS or not primary.moves:
                raise
            if isinstance(error, MovedError):
                ask, primary.address = None, _address(error, primary)
                if wary:
                    raise Renewed from None
            else:
                ask = _address(error, primary)
            continue
        except TryAgainError:
            yield Pause(_AGAIN_AFTER)
        except (ReadOnlyError, ClusterDownError, BusyLoadingError):
            # It said no: a replica, or a node that does not serve. Whoever is the primary now may say yes.
            primary.address = None
            if not (again and primary.moves):
                raise
            if wary:
                raise Renewed from None
            again = False
            yield Pause(_AGAIN_AFTER)
        except NotSent:
            primary.address = None
            if not (again and primary.moves):
                raise
            again = False
        except ResponseError as error:
            if not isinstance(call, Call) or as_script or redirects >= _MAX_REDIRECTS:
                raise
            redirects, told = redirects + 1, str(error)
            lacking = any(text in told for text in _NO_FUNCTIONS)
            if _FUNCTION_MISSING in told and primary.functions and not loads:
                loads, data = True, load_library(call)
            elif loads or lacking:
                # Nothing of the call has run, whatever the server has against the library.
                primary.functions = primary.functions and not lacking
                loads, as_script, data = False, True, evalsha(call)
            elif any(text in told for text in _NO_SCRIPTS):
                primary.functions, data = True, fcall(call)
            else:
                raise
            continue
        except (RedisError, OSError, EOFError) as error:
            primary.address = None
            if not (again and isinstance(call, Call) and call.repeatable) or isinstance(
                error, TimeoutError | RedisTimeoutError
            ):
                raise
            again = False
        ask = None


def _address(error: AskError, primary: Primary) -> Address | None:
    host = error.host or (primary.address[0] if primary.address else "")
    return (host, error.port) if host else None

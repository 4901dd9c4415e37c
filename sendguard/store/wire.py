"""A call as the bytes that go to the store, with the parts that never change packed once."""

from __future__ import annotations

from functools import lru_cache

from sendguard.store.scripts import Call, Command


def words(verb: str, script: str, call: Call) -> tuple[str | int, ...]:
    """The command that runs a call. verb, script: FCALL and a function, EVALSHA and a digest, EVAL and a source."""
    keys = (*call.pool_keys, *call.keys)
    return (verb, script, len(keys), *keys, *call.settings, *call.args)


_LENGTHS = [f"${length}\r\n" for length in range(1024)]
"""What precedes a text of that length."""


def _pack(texts: tuple[str, ...]) -> bytes:
    try:
        packed = "".join([f"{_LENGTHS[len(text)]}{text}\r\n" for text in texts])
        if packed.isascii():
            return packed.encode()
    except IndexError:
        pass
    encoded = [text.encode() for text in texts]
    return b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded])


_packed_once = lru_cache(maxsize=256)(_pack)


@lru_cache(maxsize=256)
def _head(verb: str, script: str, keys: int, parts: int, pool_keys: tuple[str, ...]) -> bytes:
    return b"*%d\r\n" % (3 + parts) + _pack((verb, script, str(keys), *pool_keys))


def _run(verb: str, name: str, call: Call) -> bytes:
    _, pool_keys, own_keys, settings, args, _ = call
    keys = len(pool_keys) + len(own_keys)
    head = _head(verb, name, keys, keys + len(settings) + len(args), pool_keys)
    return b"".join((head, _pack(own_keys), _packed_once(settings), _pack(args)))


def fcall(call: Call) -> bytes:
    """The FCALL command of a call."""
    return _run("FCALL", call.script.function, call)


def evalsha(call: Call) -> bytes:
    """The EVALSHA command of a call."""
    return _run("EVALSHA", call.script.sha, call)


def load_library(call: Call) -> bytes:
    """What gives a server a call's functions. (`REPLACE`: another process may just have done the same.)"""
    return command(Command(("FUNCTION LOAD", "REPLACE", call.script.library.source)))


def command(call: Command) -> bytes:
    """A plain command. Its name may be two words, as `CONFIG GET`."""
    args = (*call.args[0].split(), *call.args[1:])
    return b"*%d\r\n" % len(args) + _pack(args)


def eval_source(call: Call) -> bytes:
    """The EVAL command of a call, for a server that does not know its script."""
    return command(Command(tuple(map(str, words("EVAL", call.script.source, call)))))


ASKING = command(Command(("ASKING",)))
"""What lets one command through to a node that a slot is being moved to."""

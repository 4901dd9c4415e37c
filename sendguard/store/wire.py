"""A call as the bytes that go to the store, with the parts that never change packed once."""

from __future__ import annotations

from functools import lru_cache

from sendguard.store.scripts import Call, Command


def words(verb: str, script: str, call: Call) -> tuple[str | int, ...]:
    """The command that runs a call. verb: EVAL with the script's source, or EVALSHA with its digest."""
    keys = (*call.pool_keys, *call.keys)
    return (verb, script, len(keys), *keys, *call.policy_args, *call.args)


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
def _head(sha: str, keys: int, parts: int, pool_keys: tuple[str, ...]) -> bytes:
    return b"*%d\r\n" % (3 + parts) + _pack(("EVALSHA", sha, str(keys), *pool_keys))


def evalsha(call: Call) -> list[bytes]:
    """The EVALSHA command of a call, in pieces to send one after the other."""
    script, pool_keys, own_keys, policy_args, own_args, _ = call
    keys = len(pool_keys) + len(own_keys)
    head = _head(script.sha, keys, keys + len(policy_args) + len(own_args), pool_keys)
    return [b"".join((head, _pack(own_keys), _packed_once(policy_args), _pack(own_args)))]


def command(call: Command) -> list[bytes]:
    """A plain command, in pieces to send one after the other. Its name may be two words, as `CONFIG GET`."""
    args = (*call.args[0].split(), *call.args[1:])
    return [b"*%d\r\n" % len(args), _pack(args)]


def eval_source(call: Call) -> list[bytes]:
    """The EVAL command of a call, for a server that does not know its script."""
    return command(Command(tuple(map(str, words("EVAL", call.script.source, call)))))


ASKING = command(Command(("ASKING",)))
"""What lets one command through to a node that a slot is being moved to."""

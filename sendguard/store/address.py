"""A store's URL, read: how to connect, and where to ask for the primary where that can move. Pure.

`redis+sentinel://[user:password@]host:port[,host:port...]/SERVICE[/DB]` asks Sentinels which server is the primary of a
service; `redis+cluster://host:port[,host:port...]` asks any node of a cluster which one owns the pool's slot. `rediss+`
in front instead of `redis+` is the same over TLS. What redis-py takes behind a `?` is taken here too.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

SCHEMES = (
    "memory", "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")

Address = tuple[str, int]


class Target(NamedTuple):
    """What a URL names.

    url: one that redis-py reads, "" for memory. name: of a shared memory. kind: "memory", "direct", "sentinel" or
    "cluster". seeds: where to ask for the primary. service: its name, for Sentinels. sentinel_options: for connecting
    to them.
    """

    kind: str
    url: str = ""
    name: str = ""
    seeds: tuple[Address, ...] = ()
    service: str = ""
    sentinel_options: dict[str, str] = {}  # noqa: RUF012 (never written to)


def read_url(url: str) -> Target:
    """What a store's URL names. Raises ValueError naming `store`; it never shows the URL, which can hold a password."""
    parts = _split(url)
    if parts is None:
        raise ValueError("store must be a URL; special characters of its password are written as %XX")
    if parts.scheme not in SCHEMES:
        raise ValueError(f"store must be a URL with one of the schemes {', '.join(SCHEMES)}, or a Redis client")
    if parts.scheme == "memory":
        return Target("memory", name=parts.netloc)
    base, _, kind = parts.scheme.partition("+")
    if not kind:
        _port("store", parts.netloc.rpartition("@")[2] if base != "unix" else "")
        return Target("direct", url=url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    seeds = tuple(_port("store", host, _DEFAULT_PORTS[kind]) for host in hosts.split(","))
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    if kind == "cluster" and segments not in ([], ["0"]):
        raise ValueError("store: a cluster has no database but 0")
    service, database = "", "0"
    if kind == "sentinel":
        if not 1 <= len(segments) <= 2:
            raise ValueError("store: a Sentinel URL names its service, as redis+sentinel://host:26379/mymaster")
        service, database = segments[0], segments[1] if len(segments) == 2 else "0"
    options = parse_qsl(parts.query)
    query = urlencode([pair for pair in options if pair[0] not in _SENTINEL_OPTIONS])
    host, port = seeds[0]
    shown = f"[{host}]" if ":" in host else host
    plain = f"{base}://{credentials}{at}{shown}:{port}/{database}" + (f"?{query}" if query else "")
    own = {name.removeprefix("sentinel_"): value for name, value in options if name in _SENTINEL_OPTIONS}
    return Target(kind, plain, "", seeds, service, own)


def _port(name: str, text: str, default: int = 6379) -> Address:
    """The host and port in a text."""
    parts = _split(f"//{text}")
    if parts is None:
        raise ValueError(f"{name} must be a URL whose addresses are host:port")
    return parts.hostname or "localhost", parts.port or default


def _split(url: str) -> SplitResult | None:
    """A URL's parts; None if they cannot be read. What fails there shows the text, so it does not get out of here."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        if "," not in parts.netloc:
            _ = parts.port  # which it reads only now
    except (ValueError, UnicodeError):
        return None
    return parts


def split_slots(reply: list[Any], slot: int, asked: Address) -> tuple[Address | None, tuple[Address, ...]]:
    """The reply of CLUSTER SLOTS: the primary of a slot, and every node named. asked: the node that answered."""

    def address(node: list[Any]) -> Address:
        host, port = node[0], node[1]
        text = host.decode() if isinstance(host, bytes) else host or ""
        return (asked[0] if text in ("", "?") else text), int(port)

    owner, nodes = None, []
    for first, last, *served in reply:
        nodes += [address(node) for node in served]
        if int(first) <= slot <= int(last):
            owner = address(served[0])
    return owner, tuple(dict.fromkeys(nodes))

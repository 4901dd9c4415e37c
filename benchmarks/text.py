"""The report of `bench` in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import acknowledged, leases, tables, throughput
from benchmarks.peers import CHECKED_LINES, ROUTER_LINES, ROUTER_SERVER

if TYPE_CHECKING:
    from benchmarks.bench import Found

ROWS = f"""
Each row is called {{calls:,}} times, warm, from one thread; where a call takes so long that this would not \
end, as often as the cell says. All rows of both servers are interleaved in rounds: a round runs every row in a new \
order, and what is called with one number of lines runs side by side with its own PINGs. The PING is that of a client \
like the guard's; asyncio's is compared with asyncio's. Every guard has every rule on and records its decisions.

- **sendguard** is `choose_from_number()`, sync and async. Sticky: one of 500 recipients in a conversation; new \
conversation: a recipient never seen before; with an idempotency key: a new one each time. Not recorded: with \
`record_decisions=False`.
- **hand-written guard** ([handwritten.py](../handwritten.py)): HGETALL of every line in one pipeline, a random one \
of those that may send, one token of its bucket by a script. It knows neither conversations nor quotas.
- **limits** and **throttled-py** are asked about one key and choose nothing. They stand in every column, as the PING \
does.
- **LiteLLM Router**: `Router(routing_strategy="usage-based-routing-v2", redis_host=..., redis_port=...)` over as \
many deployments as lines, called as it picks for each request: `router.get_available_deployment(model, messages)`. \
It keeps its counters and cooldowns in memory and reads Redis at most every 10 s a counter and every second the \
cooldowns, so most of its choices ask Redis nothing, and none takes anything there; with 1,000 deployments and more \
its record of when it last read (1,000 keys) is too short, and it reads all counters at each choice. "Choice, \
pre-call check" adds the `pre_call_check(deployment)` of its strategy, by which it counts the request in Redis, as a \
decision of sendguard does; measured for {CHECKED_LINES[0]} lines. Above {ROUTER_LINES:,} deployments, which \
it takes a minute to take in, it is measured on {ROUTER_SERVER} only.
""".strip()

EARLIER = """
Figures measured once before on a 2-core machine, at 10, 100 and 1,000 candidates: LiteLLM 154, 562, 9,527 µs; \
hand-written 213, 591, 4,790 µs; limiters of one key 80 to 83 µs; PING 70 µs.
""".strip()

COSTS = """
Round trips: how often a call sends anything. Commands and their time: by `INFO commandstats` of what the call itself \
sends (a script's own commands are in the script's time).
""".strip()

THROUGHPUT = f"""
One pool of {throughput.LINES} lines, every rule on, recipients in a conversation; each process calls \
`guard.choose_from_number()` from one thread for {throughput.SECONDS:g} s. The processes and the server share this \
machine's cores. Script: the server's time in scripts. Leased: with \
`Lease()`; its scripts give back and record, too. The client in C is redis-benchmark with the guard's own \
command over {throughput.CONNECTIONS} connections: it shows what the server can do where Python is not in its way.
""".strip()

LEASED = f"""
`SendGuard(lease=Lease())`, with its defaults, beside a guard without and a PING: {leases.LINES:,} lines, \
{leases.RECIPIENTS} recipients in conversations, asked for in turn from one thread, interleaved. Asked: scripts that \
the server ran for each decision, with those by which a process gives back what it has not used and has its decisions \
recorded. How many decisions a loan serves depends on how soon a recipient is written to again.
""".strip()

INGESTED = """
`guard.handle_webhook()` for deliveries signed beforehand: the signature verified, the event dropped if seen, its \
news applied. One thread a process.
""".strip()

ACKNOWLEDGED = f"""
One process hands signed webhooks that flag one line after the other to its guard; its `handle_webhook()` returned \
when the webhook is acknowledged. Others ask without rest for that very line (`decide(to, from_number=line)`), from \
{acknowledged.BEFORE * 1000:.0f} ms before to {acknowledged.AFTER * 1000:.0f} ms after. All clocks are the machine's \
one monotonic clock, and a decision's time is taken just before it is asked for: what was asked before the \
acknowledgement may be answered after it. Law 1: none that is asked for after the acknowledgement is allowed. Leased: \
each of them writes to one recipient, mostly from what it was lent, and the webhook's call waits until they have given \
that back.
""".strip()

LATE = """
The same for LiteLLM's Router, two of which share a Redis: one cools a deployment down \
(`router.health().cooldowns.add_deployment_to_cooldown`), the other is asked without rest. Its documentation says of \
a cooldown: "the local copy is re-checked against Redis at least every DEFAULT_COOLDOWN_REDIS_READ_INTERVAL_SECONDS \
(1s)" (<https://docs.litellm.ai/docs/router/learn/shared_state>).
""".strip()

BYTES = """
Fresh line and recipient: growth of `used_memory`. Used-up line: MEMORY USAGE of the hash of lines that each sent \
7,000 messages evenly over a day and started 50 conversations, and the index's share.
""".strip()


def report(found: Found, where: list[str]) -> str:
    """Everything as Markdown."""
    parts = [
        ["# What a decision costs", "", *(f"- {item}" for item in where), ""],
        [
            "![p50 by lines](decisions.svg)",
            "",
            ROWS.format(calls=tables.usual_calls(found.series)),
            "",
            *tables.decisions(found.series),
            EARLIER,
            "",
        ],
        ["## Beside a PING", "", *tables.ratios(found.series)],
        ["## Round trips, commands, the server's time", "", COSTS, "", *tables.costs(found.series)],
        ["## Decisions a second", "", "![decisions a second](throughput.svg)", "", THROUGHPUT, ""],
        tables.throughput(found.runs),
        ["## Decisions from a lease", "", LEASED, "", *tables.leased(found.leased)],
        ["## Webhooks a second", "", INGESTED, "", *tables.ingested(found.ingested)],
        ["## From the acknowledgement to the last send", "", "![around the acknowledgement](acknowledged.svg)", ""],
        [ACKNOWLEDGED, "", *tables.acknowledged(found.flags)],
        [LATE, "", *tables.late(found.late)],
        ["## Bytes", "", BYTES, "", *tables.bytes_(found.memory)],
    ]
    return "\n".join(line for part in parts for line in part).strip() + "\n"

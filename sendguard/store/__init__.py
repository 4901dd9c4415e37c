"""Where the state of a pool is kept: open a store by URL, run a script in one round trip."""

from __future__ import annotations

from sendguard.store.client import AsyncStore, ScriptRefused, Store, StoreRenewed

__all__ = ["AsyncStore", "ScriptRefused", "Store", "StoreRenewed"]

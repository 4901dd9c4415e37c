"""What is particular to Linq: webhook authenticity, payload parsing and the API client."""

from sendguard.linq.client import AsyncLinqClient, LinqClient

__all__ = ["AsyncLinqClient", "LinqClient"]

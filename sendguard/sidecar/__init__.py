"""The guard as an HTTP service, for senders in any language; needs the extra `sendguard[sidecar]`."""

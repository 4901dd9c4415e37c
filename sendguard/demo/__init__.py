"""The demo: the same traffic twice over simulated lines, without and with the guard. `python -m sendguard.demo`."""

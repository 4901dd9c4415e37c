"""The demo runs without a terminal, and shows what the guard is for."""

from __future__ import annotations

import re
import subprocess
import sys


def test_the_demo_sends_less_to_flagged_lines_with_the_guard() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sendguard.demo", "--seconds", "3"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    rows = {
        name: (int(without), int(guarded))
        for name, without, guarded in re.findall(r"^ +(.+?) {2,}(\d+) +(\d+)", done.stdout, re.MULTILINE)
    }
    without, guarded = rows["sent to a FLAGGED line"]
    assert without > 3 * guarded
    assert rows["sends asked for"][0] == rows["sends asked for"][1] > 20
    assert done.stdout.count("with guard:") >= 2

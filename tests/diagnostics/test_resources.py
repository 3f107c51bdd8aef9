"""Seconds and memory of a process."""

import re

import psutil

from probmf.diagnostics import resources


def test_memory_is_at_least_what_is_held_now() -> None:
    held = psutil.Process().memory_info().rss / 2**20
    found = re.fullmatch(r"(\d+) s and (\d+) MiB of memory", resources())
    assert found
    assert int(found[2]) >= held - 1

"""Blocks that come and go are not taken from the system each time: counted in page faults, in a process of its own."""

import subprocess
import sys

import pytest

from batchhub.proxy.allocator import keep_freed_memory

FAULTS = """
import resource, sys
from batchhub.proxy.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def turn():
    return [bytearray(b"x") * (256 * 1024) for _ in range(4)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_blocks_are_used_again() -> None:
    if not keep_freed_memory():
        pytest.skip("not glibc's allocator")
    pages = 200 * 4 * 64
    assert faults("as it is") > pages / 4, "the reason for it all is gone: so can be the module"
    assert faults("kept") < pages / 40

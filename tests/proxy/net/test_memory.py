"""What the C library keeps, and what the kernel says of this process."""

import platform
import subprocess
import sys

import pytest

from proxy.net.memory import resident_bytes

_FAULTS = """
import resource, sys
if sys.argv[1] == "kept":
    from proxy.net.memory import keep_some_at_hand
    keep_some_at_hand()
def turn():
    arrived = bytes(250_000)
    joined = bytes(260_000)
for _ in range(20):
    turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="another C library")
def test_large_reads_one_after_the_other_cost_no_page_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, "kept"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 200


def test_a_process_knows_how_much_memory_it_holds() -> None:
    assert 1024 * 1024 < resident_bytes() < 1024**4

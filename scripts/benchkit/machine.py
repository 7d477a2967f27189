"""What the figures were taken on: facts that matter to a reader, and nothing that names a host."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MIB = 1024 * 1024
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts of the machine at the start of a run."""

    processor: str
    cores: int
    threads_per_core: int
    memory_mib: int
    kernel: str
    system: str
    python: str
    virtual: bool
    load_average: float
    """Of the last minute, before the benchmark put any load on."""


def processor_name(cpuinfo: str) -> str:
    """From the text of ``/proc/cpuinfo``; ``unknown`` where the architecture does not say."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model"} and value.strip():
            return " ".join(value.split())
    return "unknown"


def siblings(cpulist: str) -> int:
    """How many logical processors ``0``, ``0,4`` or ``0-1`` of sysfs names."""
    count = 0
    for part in cpulist.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            count += int(last) - int(first) + 1 if last.isdigit() else 1
    return max(count, 1)


def os_name(os_release: str) -> str:
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip('"')
    return "Linux"


def observe(python: str) -> Machine:
    """``python`` is the version that runs this project's proxy."""
    cpuinfo = _read("/proc/cpuinfo")
    return Machine(
        processor=processor_name(cpuinfo),
        cores=len(os.sched_getaffinity(0)),
        threads_per_core=siblings(
            _read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
        ),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB,
        kernel=f"{platform.release()} {platform.machine()}",
        system=os_name(_read("/etc/os-release")),
        python=python,
        virtual=" hypervisor " in cpuinfo.replace("\n", " \n "),
        load_average=os.getloadavg()[0],
    )


def busy_ticks(stat: str, core: int) -> int:
    """Ticks that ``core`` did not idle, stolen ones included, from the text of ``/proc/stat``."""
    for line in stat.splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, line.split()[1:])
            return user + nice + system + irq + softirq + steal
    raise ValueError(f"core {core} is not in /proc/stat")


def facts(machine: Machine) -> Mapping[str, str]:
    """In words, in the order to show them."""
    kind = "virtual machine" if machine.virtual else "bare metal"
    return {
        "processor": f"{machine.processor}, {machine.cores} logical cores "
        f"({machine.threads_per_core} per physical core), {kind}",
        "memory": f"{machine.memory_mib / 1024:.0f} GiB",
        "kernel": machine.kernel,
        "system": machine.system,
        "python": machine.python,
        "load average before": f"{machine.load_average:.2f}",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""

"""The limits of a proxy in the process of the tests, which is larger than a proxy may be."""

from proxy.model.settings import Capacity

ROOMY = Capacity(memory_bytes=1 << 40)

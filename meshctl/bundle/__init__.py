"""What is pushed to a host: wheels for its own Python and architecture, nothing to compile, no
network needed there.

``model`` says what a bundle is, ``closure`` which distributions it needs, ``index`` downloads
them, ``proxywheel`` packs the proxy itself, ``cache`` keeps and locks the result, ``install``
turns it into a release on a host. The host gets ``proxy``, never ``meshctl``.
"""

from meshctl.bundle.cache import BundleCache
from meshctl.bundle.install import Installation, install, install_script
from meshctl.bundle.model import Bundle, Target, Wheel

__all__ = [
    "Bundle",
    "BundleCache",
    "Installation",
    "Target",
    "Wheel",
    "install",
    "install_script",
]

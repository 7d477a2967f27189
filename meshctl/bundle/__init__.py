"""What is pushed to a host: wheels for its own Python and architecture, nothing to compile, no
network needed there.

``model`` says what a bundle is, ``closure`` which distributions it needs, ``index`` downloads
them, ``proxywheel`` and ``signerwheel`` pack our own programs, ``cache`` keeps and locks the
result, ``install`` turns it into a release on a host. A host gets ``proxy``, a control host the
signer too, and never the operator's side.
"""

from meshctl.bundle.cache import BundleCache
from meshctl.bundle.install import Installation, install, install_script
from meshctl.bundle.model import Bundle, Kind, Target, Wheel

__all__ = [
    "Bundle",
    "BundleCache",
    "Installation",
    "Kind",
    "Target",
    "Wheel",
    "install",
    "install_script",
]

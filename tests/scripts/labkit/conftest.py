"""labkit is no part of the distribution: it is found where ``scripts/lab`` finds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

"""``meshctl`` whose roots end after ROOT_LIFE_S seconds rather than after years.

ROOT_LIFE_S=180 mortal.py init ...
"""

import functools
import os

from meshctl.cli import main
from meshctl.pki import store

store.create_root = functools.partial(  # type: ignore[attr-defined]
    store.create_root,  # type: ignore[attr-defined]
    life_s=float(os.environ["ROOT_LIFE_S"]),
)

if __name__ == "__main__":
    main()

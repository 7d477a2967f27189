"""The soak in short: what is idle goes, and nothing grows. An hour of it is ``scripts/soak``."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MINUTES = 0.35
EVERY_S = 2.0
DEADLINE_S = 180.0


def test_random_hosts_paths_callers_and_statuses_grow_nothing(tmp_path: Path) -> None:
    seen = tmp_path / "looks.json"
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "soakkit.command", "--minutes", str(MINUTES)),
            *("--every", str(EVERY_S), "--series-idle", "1", "--tolerance", "4"),
            *("--json", str(seen)),
        ],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = json.loads(seen.read_text())["looks"][-1]["figures"]
    for side in ("client", "server"):
        assert last[f"{side} dropped series"] > 0
        assert last[f"{side} lost"] == 0

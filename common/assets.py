"""Where the repository and the tiny family's checkpoints lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "assets" / "tiny"

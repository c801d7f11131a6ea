"""Where the repository and the tiny family's checkpoints lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "assets" / "tiny"
BUNDLED_MARK = " (bundled tiny)"  # after their names in the nodes' lists; no file's name ends so, so that none of the user's can be meant
BY_HUB_ID = "(named by hub_id)"  # what a loader offers where no model is bundled, so that one on the Hub needs no file beside it

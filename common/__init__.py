"""What every part shares: checkpoint files, image files, masks."""

"""Training: configs and presets, data, losses, one loop, one main per model."""

"""What any long run needs: the accelerator, sharding, the moving average, states, going on, the log."""

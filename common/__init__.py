"""The ground floor: files, run folders, processes, devices, checkpoints, images, masks, directions, plots."""

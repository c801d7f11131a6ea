"""Where weights come from: which files make a model, on this machine and on the Hugging Face Hub, and PyTorch's pickles."""

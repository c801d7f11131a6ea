"""Checkpoints made public: model card, ready workflow, upload to the Hugging Face Hub (command `push`)."""

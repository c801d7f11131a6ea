"""From files to batches: the data set, crops, the sampler, batches, bad images, and what is computed once and kept."""

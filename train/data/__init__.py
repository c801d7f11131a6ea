"""From files to batches: the data set, crops, the sampler, batches, and what is computed once and kept."""

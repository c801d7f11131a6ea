"""Programs over the libraries: the paper's tables, the tiny family, benchmarks. Nothing but `commands/` imports them."""

"""One file per command, named as it is typed: options in, one library call, lines out."""

"""Nodes around harmonizing: a cut-out placed, small foregrounds cut out and put back, a result compared."""

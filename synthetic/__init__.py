"""Composites without a model: a cut-out placed on a background; for the tiny family's data, photographs with one region recoloured and
scenes with one object relit.

The commands are in `__main__`: python -m diffharmony.synthetic --help
"""

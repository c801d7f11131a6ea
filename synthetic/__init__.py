"""Training and test data of the tiny family: photographs with one region recoloured, and scenes with one object relit.

The commands are in `__main__`: python -m diffharmony.synthetic --help
"""

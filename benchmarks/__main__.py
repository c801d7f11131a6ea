"""`make bench`: python -m diffharmony.benchmarks [--help]"""

from .decode import main

if __name__ == "__main__":
    main()

"""What podctl costs, each figure beside what it is made of: ``python -m tests.bench``, or ``make bench``."""

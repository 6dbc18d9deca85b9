"""``python -m cli``: the same as ``podctl``, for whoever has to name the Python that runs it."""

from cli.main import main

main()

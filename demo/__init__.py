"""``podctl demo``: a task from wish to completed on a simulated GPU pod, with the worker killed on the way."""

"""GPU machines without GPUs: a real SSH server, a pretend nvidia-smi and vLLM, faults on demand.

What runs on a simulated machine are real processes of this computer; only the GPUs and the models are made up, and
everything that shows them says so. The modules whose names begin with ``vllm`` and those that they import load no
more than they need: every pretend model server is a Python process of its own, and a thousand of them must fit.
"""

"""``/metrics`` of the pretend API server, with vLLM's names."""

from __future__ import annotations

_FINISHED = ("stop", "length", "abort")
# upper bounds in seconds; the real ones have more, and clients must not count on which
_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
_HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
)


class Metrics:
    """Counts what the server does; everything is of the whole server (``engine="0"``)."""

    def __init__(self, model: str, kv_cache_tokens: int) -> None:
        self._labels = f'engine="0",model_name="{model}"'
        self._kv_cache_tokens = kv_cache_tokens
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(_FINISHED, 0)
        self._observed: dict[str, list[float]] = {name: [0.0] * (len(_BUCKETS) + 2) for name in _HISTOGRAMS}

    def observe(self, name: str, seconds: float, times: int = 1) -> None:
        """Add ``times`` observations of ``seconds`` to the histogram ``name``."""
        values = self._observed[name]
        values[0] += seconds * times
        values[1] += times
        for place, bound in enumerate(_BUCKETS):
            values[place + 2] += times if seconds <= bound else 0

    def text(self, running: int, tokens_held: int) -> str:
        """Return everything in Prometheus' text format; ``tokens_held``: in the KV cache now."""
        lines: list[str] = []
        self._add(lines, "num_requests_running", "gauge", running)
        self._add(lines, "num_requests_waiting", "gauge", 0)
        self._add(lines, "kv_cache_usage_perc", "gauge", min(1.0, tokens_held / self._kv_cache_tokens))
        self._add(lines, "num_preemptions_total", "counter", 0)
        self._add(lines, "prompt_tokens_total", "counter", self.prompt_tokens)
        self._add(lines, "generation_tokens_total", "counter", self.generation_tokens)
        lines.append("# TYPE vllm:request_success_total counter")
        lines += [
            f'vllm:request_success_total{{{self._labels},finished_reason="{reason}"}} {float(count)}'
            for reason, count in self.finished.items()
        ]
        for name, (total, count, *buckets) in self._observed.items():
            lines.append(f"# TYPE vllm:{name} histogram")
            lines += [
                f'vllm:{name}_bucket{{{self._labels},le="{bound}"}} {value}'
                for bound, value in zip((*_BUCKETS, "+Inf"), (*buckets, count), strict=True)
            ]
            lines += [f"vllm:{name}_count{{{self._labels}}} {count}", f"vllm:{name}_sum{{{self._labels}}} {total}"]
        return "\n".join(lines) + "\n"

    def _add(self, lines: list[str], name: str, kind: str, value: float) -> None:
        lines += [f"# TYPE vllm:{name} {kind}", f"vllm:{name}{{{self._labels}}} {float(value)}"]

"""The one-line summaries of workflows, activities and timers in the Temporal Web UI."""

#: Bytes, encoded. Temporal refuses 400, and with a longer summary the whole workflow task, again and again.
SUMMARY_LIMIT = 300


def fitted(text: str) -> str:
    """Return ``text``, cut to what Temporal takes as a summary."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= SUMMARY_LIMIT else encoded[: SUMMARY_LIMIT - 3].decode("utf-8", "ignore") + "…"

"""The one-line summaries of workflows, activities and timers in the Temporal Web UI."""

#: Bytes of the text. Temporal's limit is 400, encoded (`limit.userMetadataSummarySize`): not every server holds to it,
#: and one that does refuses what carries a longer summary.
SUMMARY_LIMIT = 300


def fitted(text: str) -> str:
    """Return ``text``, cut to what Temporal takes as a summary."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= SUMMARY_LIMIT else encoded[: SUMMARY_LIMIT - 3].decode("utf-8", "ignore") + "…"

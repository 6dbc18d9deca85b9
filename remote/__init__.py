"""Reaching GPU pods: SSH connections and calls to the podlet."""

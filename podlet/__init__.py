"""The helper that is uploaded to GPU pods: one file, standard library only."""

"""Effects: everything that touches a GPU pod or another workflow."""

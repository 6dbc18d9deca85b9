"""GPU pods: inventory, catalog, start planning, leases, the life of model servers, and their failures."""

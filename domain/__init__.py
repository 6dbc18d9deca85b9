"""Rules and models: pure, no I/O, no clock, no Temporal."""

"""The Python client of podctl: what programs import and what the command line itself uses."""

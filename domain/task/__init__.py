"""Task pods: state, commands, schedule and plan files."""

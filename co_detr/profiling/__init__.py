"""Where the time and the memory of a step go: `tools/profile_step.py`."""

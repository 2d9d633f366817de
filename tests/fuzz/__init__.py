"""Fuzzing: damaged and hostile files go through every command, and the promises are asserted. See `make fuzz`."""

"""`python -m hace COMMAND`: a module for each command, with `add_arguments` and `run`."""

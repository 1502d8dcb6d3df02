"""Runnable recipes: `python -m experiments` lists them, `python -m experiments.<name> --help` explains one."""

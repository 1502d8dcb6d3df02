"""Lists the experiments, or runs one on many devices.

    python -m experiments
    python -m experiments --mesh data=4,fsdp=2 digits --steps 100

The second is `python -m experiments.digits --steps 100` on a mesh of 4 x 2 devices (see `arjax.sharding`). Of
several processes, each is started with its own number:

    python -m experiments --mesh data=8 --coordinator 10.0.0.1:1234 --processes 2 --process 0 digits
    python -m experiments --mesh data=8 --coordinator 10.0.0.1:1234 --processes 2 --process 1 digits

The run's folder is one that all processes share.
"""

import argparse
import ast
import os
import runpy
import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    parser = argparse.ArgumentParser(
        "python -m experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mesh", help="sizes of its axes, such as data=4,fsdp=2 (default: one device)")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 can be reached")
    parser.add_argument("--processes", type=int, default=1, help="how many there are (default: 1)")
    parser.add_argument("--process", type=int, default=0, help="the number of this one, from 0 (default: 0)")
    parser.add_argument("experiment", nargs="?", choices=list(experiments()), metavar="EXPERIMENT")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="of the experiment")
    args = parser.parse_args(argv)
    if args.experiment is None:
        for name, title in experiments().items():
            print(f"python -m experiments.{name:22} {title}")
        print("\nEach takes --help, which explains its settings, and --smoke, which shrinks it to seconds.")
        return
    from arjax import sharding  # the list above comes without JAX

    try:
        if args.coordinator is not None:
            sharding.join(args.coordinator, args.processes, args.process)
        mesh = sharding.parse_mesh(args.mesh) if args.mesh else None
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if args.process > 0:  # all processes print the same
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.argv = [f"experiments.{args.experiment}", *args.arguments]
    with sharding.use_mesh(mesh):
        runpy.run_module(f"experiments.{args.experiment}", run_name="__main__")


def experiments() -> dict[str, str]:
    """The title of each experiment by its name; imports none of them."""
    docs = {
        path.stem: ast.get_docstring(ast.parse(path.read_text())) or ""
        for path in sorted(Path(__file__).parent.glob("[!_]*.py"))
    }
    return {name: doc.splitlines()[0] for name, doc in docs.items() if "Command:" in doc}


if __name__ == "__main__":
    main(sys.argv[1:])

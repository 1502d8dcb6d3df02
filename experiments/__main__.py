"""Lists the experiments, importing none of them. Command: python -m experiments."""

import ast
from pathlib import Path

if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        title = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        print(f"python -m experiments.{path.stem:22} {title}")
    print("\nEach takes --help, which explains its settings, and --smoke, which shrinks it to seconds.")

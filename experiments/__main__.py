"""Lists the experiments, importing none of them. Command: python -m experiments."""

import ast
from pathlib import Path

if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        if "Command:" in doc:
            print(f"python -m experiments.{path.stem:22} {doc.splitlines()[0]}")
    print("\nEach takes --help, which explains its settings, and --smoke, which shrinks it to seconds.")

"""What need not be compiled again for each count? Runs IN the emulator, once, when its root file system is made.

``python compiling.py TREE`` imports the runtimes and compiles every module of TREE that they brought, under the name
that it has in the emulator, so that the result does not depend on where TREE lies.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import py_compile
import sys

RUNTIMES = ("ctypes", "json", "pathlib", "math", "onnxruntime", "ai_edge_litert.interpreter")


def main(tree: str) -> int:
    """Compile, and tell the C library's version."""
    for name in RUNTIMES:
        importlib.import_module(name)
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    for file in sorted(files):
        if file.startswith(f"{tree}/") and file.endswith(".py"):
            py_compile.compile(
                file,
                dfile=file[len(tree) :],
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
    libc = ctypes.CDLL(None)
    libc.gnu_get_libc_version.restype = ctypes.c_char_p
    print(json.dumps({"python": sys.version.split()[0], "libc": libc.gnu_get_libc_version().decode()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

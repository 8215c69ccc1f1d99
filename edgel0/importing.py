"""Which object does ``module:name`` mean? Import it, call it, and tell its author where their code failed."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from edgel0.errors import EdgeL0Error, RecipeError, nearest

OURS = Path(__file__).parent


@contextlib.contextmanager
def theirs(what: str, folder: Path, advice: str = "Correct the code there, and run again.") -> Iterator[None]:
    """Run a user's code; whatever it raises becomes a :class:`RecipeError` that names the line of theirs."""
    try:
        yield
    except EdgeL0Error:
        raise
    except (Exception, SystemExit) as error:  # it is not ours: it may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
        raise RecipeError(f"{what} failed{_place(error, folder)} with {reason.rstrip('.')}. {advice}") from error


def _place(error: BaseException, folder: Path) -> str:
    """Say which innermost line of a traceback stands in a file below ``folder``, or else the innermost of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {_shown(Path(error.filename), folder)}:{error.lineno}"
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    lines = [(file, line) for file, line in lines if OURS not in file.parents]
    own = [
        (file, line) for file, line in lines if folder.resolve() in file.parents and "site-packages" not in file.parts
    ]
    for file, line in (own or lines)[-1:]:
        return f" at {_shown(file, folder)}:{line}"
    return ""


def _shown(file: Path, folder: Path) -> Path:
    """Write a path as the user would: ``folder`` as it was given, and the rest."""
    return folder / file.relative_to(folder.resolve()) if folder.resolve() in file.parents else file


def load_object(reference: str, folder: Path) -> Any:
    """Import ``module:name`` or ``path/file.py:name``: a file in ``folder``, or a module that Python can import.

    ``folder`` is put at the end of Python's search path, so that a module's neighbours can be imported from it.

    Raises:
        RecipeError: the module or the name is not there, or the module fails.
    """
    module_name, _, name = reference.rpartition(":")
    if not (module_name and name.isidentifier()):
        raise RecipeError(f"{reference!r} was found where module:function or path/file.py:function is needed.")
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
    with theirs(f"importing {module_name!r}", folder):
        module = _module(module_name, folder)
    found = getattr(module, name, None)
    if found is None:
        raise RecipeError(f"{module_name!r} has no {name!r}{nearest(name, vars(module)) or '; name one that it has.'}")
    return found


def load_function(reference: str, folder: Path) -> Callable[..., Any]:
    """Import a function as :func:`load_object` does; what it raises when called is a :class:`RecipeError`, too."""
    found = load_object(reference, folder)
    if not callable(found):
        raise RecipeError(f"{reference!r} is {type(found).__name__}, and a function is needed.")

    @functools.wraps(found)
    def called(*args: Any) -> Any:
        advice = f"Correct {'what it was given, or ' if args else ''}the code there, and run again."
        with theirs(f"{reference}({', '.join(map(repr, args))})", folder, advice):
            return found(*args)

    return called


def _module(name: str, folder: Path) -> ModuleType:
    written = name.endswith(".py")
    file = folder / (name if written else name.replace(".", "/") + ".py")
    if file.is_file() and not (file.parent / "__init__.py").is_file():
        if str(file.parent.resolve()) not in sys.path:
            sys.path.append(str(file.parent.resolve()))
        return _from_file(file.resolve())
    if written and not file.is_file():
        raise RecipeError(f"there is no file {str(file)!r}; write path/file.py:function with a path from {folder}.")
    try:
        return importlib.import_module(name.removesuffix(".py").replace("/", "."))
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise RecipeError(
            f"there is neither a file {str(file)!r} nor a Python module {name!r}; write module:function with the "
            "module's file beside the recipe."
        ) from error


def _from_file(file: Path) -> ModuleType:
    """Execute a file as a module, once for as long as it does not change."""
    name, stamp = file.stem, (str(file), file.stat().st_mtime_ns, file.stat().st_size)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(file):  # the name of a module that others use
        name = f"{name}_of_the_recipe"
        known = sys.modules.get(name)
    if known is not None and getattr(known, "edgel0_stamp", None) == stamp:
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    module.__dict__["edgel0_stamp"] = stamp
    return module

import ctypes
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from edgel0.errors import DeviceError, ExtraError, UsageError
from edgel0.exporters.foreign import foreign, load


def chatter():
    print("python stdout")
    print("python stderr", file=sys.stderr)
    os.write(1, b"descriptor 1\n")
    os.write(2, b"descriptor 2\n")
    ctypes.CDLL(None).puts(b"C stdout")
    logging.warning("logged")
    warnings.warn("warned", UserWarning, stacklevel=1)


def test_nothing_is_heard_and_nothing_left(tmp_path, capfd):
    handlers = logging.root.handlers[:]
    with foreign("chatter", tmp_path / "log"):
        chatter()
    print("after")
    assert capfd.readouterr() == ("after\n", "")
    assert list(tmp_path.iterdir()) == []
    assert logging.root.handlers == handlers


def test_a_plain_process_stays_silent_too(tmp_path):
    """Without pytest between: neither buffered C output nor a logging handler may surface after the redirection."""
    code = (
        "import logging, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from exporters.test_foreign import chatter; from edgel0.exporters.foreign import foreign\n"
        "print('before')\n"
        "with foreign('chatter', Path(sys.argv[2])): chatter()\n"
        "print('after', logging.root.handlers)"
    )
    folders = [str(Path(__file__).parents[1]), str(tmp_path / "log")]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True, env=buffered
    )
    assert (done.stdout, done.stderr) == ("before\nafter []\n", "")


@pytest.mark.parametrize("error", [UsageError, DeviceError])
def test_a_failure_is_told_and_the_log_kept(tmp_path, capfd, error):
    class Odd(Exception):
        pass

    with (
        pytest.raises(error, match=r"^chatter failed with Odd: first line\. .*log;") as caught,
        foreign("chatter", tmp_path / "log", error),
    ):
        chatter()
        raise Odd("first line\nsecond line")
    assert isinstance(caught.value.__cause__, Odd)
    text = (tmp_path / "log").read_text()
    assert all(word in text for word in ["python stdout", "descriptor 2", "C stdout", "second line", "Traceback"])
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_passes_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), foreign("chatter", tmp_path / "log"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_names_its_extra():
    with pytest.raises(ExtraError, match=r'pip install "edgel0\[onnx\]"'):
        load("no_such_library_at_all", "onnx")

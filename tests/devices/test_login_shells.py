"""Whatever shell a board's login is, it hands our commands to sh as they are."""

import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgel0.devices.links import worded

SHELLS = [
    ["sh"],
    ["dash"],
    ["bash"],
    ["zsh"],
    ["ksh"],
    ["mksh"],
    ["yash"],
    ["csh"],
    ["tcsh"],
    ["fish"],
    ["busybox", "sh"],
]
argument = st.binary(max_size=40).map(lambda data: os.fsdecode(data.replace(b"\0", b"0")))
ECHO = [sys.executable, "-S", "-c", "import os, sys; os.write(1, b'|'.join(map(os.fsencode, sys.argv[1:])))"]


@pytest.mark.skipif(sys.platform == "win32", reason="boards' shells are of Unix")
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(argument, max_size=3))
@example(arguments=["!! !x !$", "", "-e", "%s%n\\0101\\x41\\c", "a\\\nb\n\n", "\\", "'\"`$(touch pwned)`"])
@example(
    arguments=["~ ~root $HOME ${HOME} *", "{a,b} [a] ?", "; touch pwned & touch pwned | touch pwned", "\r\t\x1b[31m"]
)
@example(arguments=["ü — 網", "\udcff\udc80", "#", "^", "=ls", "(true)", "end"])
def test_arguments_pass_it_unharmed(shell, arguments, tmp_path):
    program = shutil.which(shell[0])
    if program is None:
        pytest.skip(f"not installed: {shell[0]}")
    login = [program, *shell[1:], "-c", worded([*ECHO, *arguments])]
    done = subprocess.run(
        login, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, check=True
    )
    assert done.stdout == b"|".join(map(os.fsencode, arguments))
    assert not list(tmp_path.rglob("pwned"))

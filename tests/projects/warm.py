"""Imported by the server that the tests' processes are forked from: a whole run, so that they begin with all of it."""

import tempfile
from pathlib import Path

import torch

from projects import edgel0, project

torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as _folder:
    edgel0("run", project(Path(_folder)), "--out", _folder)

"""The programs of README.md run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import offers

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def test_each_program_says_what_it_prints() -> None:
    assert len(PROGRAMS) == README.read_text().count("```python") > 0


@pytest.mark.parametrize("program, output", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_runs(program: str, output: str) -> None:
    program = program.replace("localhost:7440", offers().address)
    command = [sys.executable, "-W", "error", "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (ran.stdout, ran.stderr) == (output, "")

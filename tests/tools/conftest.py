"""The tools, called in this process as from the command line."""

import importlib
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture
def call_tool(monkeypatch, capsys):
    """`call_tool(name, *arguments)`: what the tool of this name printed, in lines of 160 characters."""
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv('COLUMNS', '160')

    def call(name, *arguments):
        importlib.import_module(name).main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call

"""The one folder that commands and Python of the pages are run in copies of."""

from __future__ import annotations

import pytest

from tests.docs.pages import Command, commands
from tests.docs.running import Ran, run
from tests.docs.workplace import MAKERS, furnish


@pytest.fixture(scope="session")
def made(world, tmp_path_factory):
    """The folder, and what the commands said that made some of it."""
    folder = tmp_path_factory.mktemp("docs") / "workplace"
    folder.mkdir()
    furnish(folder, world)
    said: dict[Command, Ran] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        patch.chdir(folder)
        for text in MAKERS:
            (command,) = commands(f"    {text}")
            done = run(command, patch)
            said[done.command] = done
    return folder, said

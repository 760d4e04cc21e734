"""Checks of contact search: the engine, the walls of its process, and the accounts' indexes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product

import tantivy

from resources.stores.search import INDEXES
from resources.stores.search.files import Files

from ..config import Config
from ..store.opening import EMBEDDED
from ..store.ownership import OWN_FOLDERS
from ..store.valkey import FROM_WITHIN
from .finding import Check

REBUILT = "the next search builds it anew from the store"
WALLS = (sys.executable, "-m", "resources.stores.search.walls")
WALLS_SECONDS = 20.0


def check_search(config: Config) -> Iterator[Check]:
    """Check that the search engine works here, and that the walls of its process can be put up."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text")
    with tempfile.TemporaryDirectory() as name:
        try:
            index = tantivy.Index(builder.build(), path=name)
            index.writer(15_000_000, 1).commit()
        except (ValueError, OSError) as error:
            text = f"tantivy cannot make an index: {error}"
            yield Check("search", "failed", text, "free disk and memory")
            return
    yield Check("search", "ok", f"tantivy {version('tantivy')}")
    yield _check_walls(config)


def _check_walls(config: Config) -> Check:
    """Have a process put them up, as the search process does."""
    name = "search walls"
    url = FROM_WITHIN if config.redis.url == EMBEDDED else config.redis.url
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [*WALLS, folder], input=url, capture_output=True, text=True,
                timeout=WALLS_SECONDS, check=True,
            )  # fmt: skip
            lacking = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return Check(name, "failed", f"they cannot be tried: {error}", "see its text")
    if lacking:
        remedy = "search works without; a newer kernel, or a container that allows it, has them"
        return Check(name, "note", f"the search process lacks {'; '.join(lacking)}", remedy)
    return Check(name, "ok", "Landlock, system calls")


def check_indexes(config: Config) -> Iterator[Check]:
    """Check the search indexes of the accounts that have one: that each can be written, and is as
    it was written.
    """
    owners = [config.data_dir, *sorted(config.data_dir.glob(OWN_FOLDERS))]
    for owner, account in product(owners, config.account_names):
        files = Files.of(owner / INDEXES, account)
        if not files.folder.exists():
            continue
        name = f"search index of {account}"
        if not os.access(files.folder, os.R_OK | os.W_OK | os.X_OK):
            text = f"{files.folder} cannot be written by this user, {os.geteuid()}"
            yield Check(name, "failed", text, f"chown it, or delete it: {REBUILT}")
        elif damage := files.damage():
            yield Check(name, "note", f"it cannot be used: {damage}", REBUILT)
        else:
            yield Check(name, "ok", f"{files.folder} is whole")

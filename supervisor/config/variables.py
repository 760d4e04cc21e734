"""Environment variables in config values: `${NAME}` is replaced, `$$` is a dollar sign."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path as FilePath

from attrs import define, field

from resources.text import is_clean

from .files import FILE_MAX, Unreadable, read_text
from .locate import Path
from .units import show

OPEN = "${"
NO_NAME = "expected ${NAME} with the name of a variable; a dollar sign is $$"
ENV = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
SECRET_LEAST = 4  # characters; shorter values of variables are not hidden in messages


@define
class Variables:
    """Puts variables into values, and keeps what they hold out of messages.

    Attributes:
        fault: Reports an error at a path.
        written: By path, the values with variables as the file has them.
        unset: Paths of values that have no text because a variable is missing or unusable.
    """

    fault: Callable[[Path, str], None]
    written: dict[Path, str] = field(factory=dict)
    unset: set[Path] = field(factory=set)
    _names: dict[str, str] = field(factory=dict)  # by value, how the file names the variable

    def expand(self, value: str, path: Path) -> str:
        """Replace the variables in the value at a path.

        Raises:
            ValueError: The result is longer than FILE_MAX.
        """
        size = len(value)

        def put_in(found: re.Match[str]) -> str:
            nonlocal size
            text = self._text(found, value, path)
            size += len(text)
            if size > FILE_MAX:
                raise ValueError(
                    f"with its variables put in it has more than {FILE_MAX} characters"
                )
            return text

        expanded = ENV.sub(put_in, value)
        if expanded != value:
            self.written[path] = value
        return expanded

    def hide(self, text: str, path: Path) -> str:
        """A message about the value at a path, with variables' names instead of their values."""
        if path in self.written:
            what = text.split(", got ", maxsplit=1)[0]
            text = f"{what}, got {show(self.written[path])} with its variables put in"
        for value, name in self._names.items():
            text = text.replace(value, name)
        return text

    def _text(self, found: re.Match[str], value: str, path: Path) -> str:
        if found[0] == OPEN:  # a mistyped variable must not become a password, say
            self.fault(path, NO_NAME)
            self.unset.add(path)
        return self._variable(found[1], value, path) if found[1] else found[0][0]

    def _variable(self, name: str, value: str, path: Path) -> str:
        """The text of a variable; empty, after reporting an error, if it cannot be used."""
        text = _look_up(name)
        if text is None:
            has_credentials = "CREDENTIALS_DIRECTORY" in os.environ
            where = ", nor is it among systemd's credentials" if has_credentials else ""
            problem = f"the environment has no variable {name}{where}, which {show(value)} asks for"
        elif not is_clean(text) or "\0" in text:
            problem = f"the variable {name}, which {show(value)} asks for, is not UTF-8 text"
        else:
            if len(text) >= SECRET_LEAST:
                self._names[text] = f"${{{name}}}"
            return text
        self.fault(path, problem)
        self.unset.add(path)
        return ""


def _look_up(name: str) -> str | None:
    """The environment variable, else the systemd credential (LoadCredential=) of that name."""
    if name in os.environ:
        return os.environ[name]
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return None
    try:
        return read_text(FilePath(folder) / name, FILE_MAX).rstrip("\n")
    except Unreadable:
        return None

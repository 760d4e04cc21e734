"""A conversation in the terminal: lines typed, or read from standard input, go to an app."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import trio
from attrs import define, field

from resources.stores.redis import StoreError

from ..client.phone import Hung, Phone, Rejected, Turn
from .saved import Said, save
from .screen import Screen

HELP = """\
  text        type it in the session (dials a new one if none is open)
  /new        dial again            /hangup     hang up (for apps the same as /timeout)
  /sms TEXT   a message outside any session
  /dr STATUS  a delivery report (delivered, failed, pending) of the app's last message
  /as NUMBER  be another phone
  /state      where the toolkit has this user (in `jsbox dev`)
  /kv [KEY]   the keys of the key-value store, or a value (in `jsbox dev`)
  /save NAME  write the conversation so far to NAME.chat.toml, for `jsbox test`
  /quit       leave (or Ctrl-D)"""
STATUSES = ("delivered", "failed", "pending")
NO_EVENTS = 'events = "always", or process_events in its config, sends it events'
PROMPT = "> "


class Inside(Protocol):
    """What only somebody beside the app can see. Both return lines, or raise StoreError."""

    async def state(self, number: str) -> str:
        """Where the toolkit has a user."""

    async def kv(self, key: str) -> str:
        """A value; without a key, all keys."""


@define(eq=False)
class Talk:
    """Sends lines from the terminal, or standard input, to the app.

    Attributes:
        failed: Whether a run has ended otherwise than as `ok`.
    """

    phone: Phone
    screen: Screen
    sms: bool
    inside: Inside | None = None
    failed: bool = field(default=False, init=False)
    _said: list[Said] = field(factory=list, init=False)

    async def run(self) -> bool:
        """Talk until there are no more lines. Return whether all is well: whatever happens in a
        conversation that a person types is.
        """
        is_typed = sys.stdin.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # bytes that are no text end nothing
        with _kept_terminal():
            if not self.sms:
                await self.dial()
            while True:
                line = await self._line()
                if line is None or line.strip() in ("/quit", "/exit"):
                    return is_typed or not self.failed
                try:
                    await self.act(line)
                except Rejected as error:
                    self.failed = True
                    self.screen.note(f"not accepted: {error}")

    async def _line(self) -> str | None:
        """The next line; None at the end."""
        if not sys.stdin.isatty():
            line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            return line.rstrip("\r\n") if line else None
        self.screen.prompt = PROMPT
        try:
            return await trio.to_thread.run_sync(_typed, abandon_on_cancel=True)
        finally:
            self.screen.prompt = ""

    async def act(self, line: str) -> None:
        """Act on one line."""
        word, _, rest = line.partition(" ")
        if not word.startswith("/"):
            await self.say(line)
        elif not await self._command(word, rest.strip()):
            self.screen.note(f"there is no {line}\n{HELP}")

    async def _command(self, word: str, rest: str) -> bool:
        """Do what a command says; return whether there is such a command."""
        match word:
            case "/new":
                await self.dial()
            case "/hangup" | "/timeout":
                self._shows("hang_up", "", await self.phone.hang_up())
            case "/sms":
                self.screen.types(rest)
                self._shows("sms", rest, await self.phone.send_sms(rest))
            case "/dr":
                await self._report(rest or "delivered")
            case "/state" | "/kv":
                self.screen.note(await self._inside(word, rest))
            case _:
                return self._note(word, rest)
        return True

    def _note(self, word: str, rest: str) -> bool:
        """Do what a command says that sends nothing; return whether there is such a command."""
        if word == "/help":
            self.screen.note(HELP)
        elif word == "/as" and rest:
            self.phone.number = rest
            self.phone.in_session = False
            self._said.clear()
            self.screen.note(f"this is {self.phone.number}")
        elif word == "/save" and rest:
            self._save(rest)
        else:
            return False
        return True

    async def _inside(self, word: str, rest: str) -> str:
        if self.inside is None:
            return f"{word} is for `jsbox dev`: here the store is out of reach"
        try:
            if word == "/kv":
                return await self.inside.kv(rest)
            return await self.inside.state(self.phone.number)
        except StoreError as error:
            return f"{word}: {error}"

    async def dial(self) -> None:
        """Begin a session."""
        self.screen.dials(self.phone.number, self.phone.dials)
        self._shows("dial", self.phone.dials, await self.phone.dial())

    async def say(self, text: str) -> None:
        """Type in the session; without one, dial first."""
        if self.sms:
            self.screen.types(text)
            self._shows("sms", text, await self.phone.send_sms(text))
            return
        if not self.phone.in_session:
            await self.dial()
            if not text:
                return
        if not sys.stdin.isatty():
            self.screen.types(text)
        self._shows("send", text, await self.phone.answer(text))

    def _shows(self, action: str, text: str, turn: Turn) -> None:
        self.failed = self.failed or turn.outcome != "ok"
        self._said.append(Said(action, text, turn))
        self.screen.shows(turn, is_sms=action == "sms")

    async def _report(self, status: str) -> None:
        if status not in STATUSES:
            self.screen.note(f"/dr: expected {', '.join(STATUSES)}, got {status}")
        elif self.phone.last_outbound is None:
            self.screen.note("/dr: the app has sent nothing yet")
        else:
            try:
                turn = await self.phone.report(status)
            except Hung:
                self.screen.note(f"the app was told: {status}, and did not take it: {NO_EVENTS}")
                return
            self.failed = self.failed or turn.outcome != "ok"
            self.screen.note(f"the app was told: {status}; the run ended as {turn.outcome}")
            for other in turn.others:
                self.screen.note(f"a message to {other['to_addr']}: {other['content']}")

    def _save(self, name: str) -> None:
        try:
            file = save(Path(name), self.phone.number, self._said)
        except (OSError, ValueError) as error:
            self.screen.note(f"/save: {error}")
        else:
            self.screen.note(f"written: {file}; `jsbox test {file}` plays it")


def _typed() -> str | None:
    """A line of the terminal, with history and editing; None at the end."""
    import readline  # noqa: F401  # input() uses it once it is imported

    try:
        return input(PROMPT)
    except EOFError:
        return None


@contextmanager
def _kept_terminal() -> Iterator[None]:
    """Leave the terminal as it was, even if a line is being edited when we go.

    Meanwhile it hands on every key as it is. What is typed before a line is asked for would
    otherwise be lost to the line editor if it is Ctrl-D.
    """
    if not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    keys = termios.tcgetattr(sys.stdin)
    keys[3] &= ~termios.ICANON
    keys[6][termios.VMIN], keys[6][termios.VTIME] = 1, 0
    try:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, keys)
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

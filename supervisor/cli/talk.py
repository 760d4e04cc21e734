"""A conversation in the terminal: lines typed, or read from standard input, go to an app."""

from __future__ import annotations

import sys

import trio
from attrs import frozen

from ..client.phone import Phone, Rejected
from .screen import Screen

HELP = """\
  text        type it in the session (dials a new one if none is open)
  /new        dial again            /hangup     hang up
  /sms TEXT   a message outside any session
  /as NUMBER  be another phone      /quit       leave (or Ctrl-D)"""


@frozen
class Talk:
    """Sends lines from the terminal, or standard input, to the app."""

    phone: Phone
    screen: Screen
    sms: bool

    async def run(self) -> None:
        """Talk until there are no more lines."""
        if not self.sms:
            await self.dial()
        while True:
            if sys.stdin.isatty():
                self.screen.console.print("> ", end="")
            line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            if not line or line.strip() in ("/quit", "/exit"):
                return
            try:
                await self.act(line.rstrip("\r\n"))
            except Rejected as error:
                self.screen.note(f"not accepted: {error}")

    async def act(self, line: str) -> None:
        """Act on one line."""
        word, _, rest = line.partition(" ")
        match word:
            case "/help":
                self.screen.note(HELP)
            case "/new":
                await self.dial()
            case "/hangup":
                self.screen.shows(await self.phone.hang_up())
            case "/as" if rest.strip():
                self.phone.number = rest.strip()
                self.phone.in_session = False
                self.screen.note(f"this is {self.phone.number}")
            case "/sms":
                self.screen.types(rest)
                self.screen.shows(await self.phone.send_sms(rest))
            case _ if word.startswith("/"):
                self.screen.note(f"there is no {word}\n{HELP}")
            case _:
                await self.say(line)

    async def dial(self) -> None:
        """Begin a session."""
        self.screen.dials(self.phone.number, self.phone.dials)
        self.screen.shows(await self.phone.dial())

    async def say(self, text: str) -> None:
        """Type in the session; without one, dial first."""
        if self.sms:
            self.screen.types(text)
            self.screen.shows(await self.phone.send_sms(text))
            return
        if not self.phone.in_session:
            await self.dial()
            if not text:
                return
        if not sys.stdin.isatty():
            self.screen.types(text)
        self.screen.shows(await self.phone.answer(text))

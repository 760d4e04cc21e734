"""A conversation in the terminal, as a person at a phone sees it."""

from __future__ import annotations

from attrs import define, field
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from resources.text import visible

from ..client.phone import Turn
from .sizes import SCREENS, Preset, measure, parts

WIDTH = 44  # characters of a phone's screen, at least


@define(eq=False)
class Screen:
    """Prints turns, in colour if the terminal has colours.

    Attributes:
        preset: How much a USSD screen holds.
        prompt: Shown again, with what was typed behind it, after anything that is printed while the
            user types; empty: the user does not type.
        typed: Gives what the user has typed so far.
    """

    preset: Preset = SCREENS["182"]
    prompt: str = ""
    console: Console = field(factory=lambda: Console(highlight=False, soft_wrap=False))

    def dials(self, number: str, code: str) -> None:
        """Show that a session begins."""
        self.console.print(f"\n[bold]{_markup(number)} dials {_markup(code)}[/bold]")

    def types(self, text: str) -> None:
        """Show what the user types."""
        self.console.print(f"[cyan]> {_markup(text)}[/cyan]")

    def shows(self, turn: Turn, *, is_sms: bool = False) -> None:
        """Show what came back."""
        for reply in turn.replies:
            content = str(reply["content"] or "")
            room, is_too_long = self._room(content, is_sms=is_sms)
            note = f"{room}, {turn.ms:.0f} ms"
            if reply["session_event"] == "close":
                note += ", session closed"
            width = min(self.console.width, max(WIDTH, len(note) + 6))
            style = "red" if is_too_long else "none"
            self.console.print(
                Panel(
                    _text(content), width=width, subtitle=note, subtitle_align="right",
                    border_style=style,
                )
            )  # fmt: skip
        for other in turn.others:
            self.note(f"a message to {other['to_addr']}: {other['content']}")
        if turn.outcome != "ok":
            self.console.print(f"[red]the run ended as {_markup(turn.outcome)}[/red]")
            if turn.outcome == "wall":
                self.note("A run ends with api.done(): is it called, whatever comes back?")
        elif not turn.replies:
            self.note(f"no reply ({turn.ms:.0f} ms)")

    def _room(self, content: str, *, is_sms: bool) -> tuple[str, bool]:
        """The room that a text takes, in words; and whether it is too long for the screen."""
        size = measure(content)
        if is_sms:
            count = parts(size)
            many = f"{count} part{'s' if count > 1 else ''}"
            return f"{size.places} characters, {size.alphabet}, {many}", False
        most = self.preset.most(size)
        text = f"{size.places} of {most} characters, {size.alphabet}"
        return (f"TOO LONG: {text}", True) if size.places > most else (text, False)

    def logged(self, level: str, message: str) -> None:
        """Show a line of the app's log."""
        colour = {"ERROR": "red", "CRITICAL": "red", "WARNING": "yellow"}.get(level, "bright_black")
        self._aside(_text(f"  {level:8} {message}", colour))

    def note(self, text: str) -> None:
        """Show a note of jsbox itself."""
        self._aside(_text(text, "bright_black"))

    def _aside(self, text: Text) -> None:
        """Print something that may come while the user types."""
        if self.prompt:
            self.console.print()
        self.console.print(text, soft_wrap=True)
        if self.prompt:
            import readline

            self.console.print(self.prompt + escape(readline.get_line_buffer()), end="")


def _text(text: str, style: str = "") -> Text:
    """A text as it is, in several lines perhaps, with what a terminal would obey made visible."""
    return Text(visible(text, keep="\n\t"), style=style)


def _markup(text: str) -> str:
    """Likewise, in one line, to be put into markup."""
    return escape(visible(text))

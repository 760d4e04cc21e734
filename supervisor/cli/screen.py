"""A conversation in the terminal, as a person at a phone sees it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from ..client.phone import Turn

WIDTH = 44


class Screen:
    """Prints turns, in colour if the terminal has colours."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=False)

    def dials(self, number: str, code: str) -> None:
        """Show that a session begins."""
        self.console.print(f"\n[bold]{escape(number)} dials {escape(code)}[/bold]")

    def types(self, text: str) -> None:
        """Show what the user types."""
        self.console.print(f"[cyan]> {escape(text)}[/cyan]")

    def shows(self, turn: Turn) -> None:
        """Show what came back."""
        for reply in turn.replies:
            content = str(reply["content"] or "")
            note = f"{len(content)} characters, {turn.ms:.0f} ms"
            if reply["session_event"] == "close":
                note += ", session closed"
            width = min(self.console.width, max(WIDTH, len(note) + 6))
            panel = Panel(Text(content), width=width, subtitle=note, subtitle_align="right")
            self.console.print(panel)
        for other in turn.others:
            self.note(f"a message to {other['to_addr']}: {other['content']}")
        if turn.outcome != "ok":
            self.console.print(f"[red]the run ended as {escape(turn.outcome)}[/red]")
        elif not turn.replies:
            self.note(f"no reply ({turn.ms:.0f} ms)")

    def logged(self, level: str, message: str) -> None:
        """Show a line of the app's log."""
        colour = {"ERROR": "red", "CRITICAL": "red", "WARNING": "yellow"}.get(level, "bright_black")
        text = Text(f"  {level:8} {message}", style=colour)
        self.console.print(text, soft_wrap=True)

    def note(self, text: str) -> None:
        """Show a note of jsbox itself."""
        self.console.print(Text(text, style="bright_black"), soft_wrap=True)

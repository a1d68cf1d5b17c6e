"""How the guided jobs talk with the person at the arm."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from rich.console import Console
from rich.prompt import Confirm, Prompt

_Answer = TypeVar("_Answer", bool, str)


class Dialogue(Protocol):
    """Somebody who reads, agrees or declines, and answers."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def agrees(self, question: str) -> bool:
        """Whether the person says yes."""
        ...

    def number(self, question: str) -> float | None:
        """A number, None if the person leaves it open."""
        ...


class Terminal:
    """A person at this terminal. End of input declines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def agrees(self, question: str) -> bool:
        return _or_declined(lambda: Confirm.ask(question, console=self._console, default=False), declined=False)

    def number(self, question: str) -> float | None:
        while True:
            text = _or_declined(
                lambda: Prompt.ask(f"{question} (empty: leave it open)", console=self._console, default=""), declined=""
            )
            if not text.strip():
                return None
            try:
                return float(text)
            except ValueError:
                self.say(f"expected a number, got {text!r}")


class Yes:
    """Agrees to everything and knows no figures: for a twin, where nobody can be hurt."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def agrees(self, question: str) -> bool:
        self.say(f"{question} [dim]yes[/]")
        return True

    def number(self, question: str) -> float | None:
        return None


def _or_declined(ask: Callable[[], _Answer], *, declined: _Answer) -> _Answer:
    try:
        return ask()
    except EOFError:
        return declined

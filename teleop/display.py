"""One live line for the operator: progress, clutch, speed, what limits the arm, what to do."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from teleop.clutch import ClutchState
from teleop.session import SessionView

REFRESHES_PER_S = 5


class CollectDisplay:
    """A context manager; `show` may be called from any thread. Without a terminal it prints what changes instead."""

    def __init__(self, console: Console, *, keys: str) -> None:
        self._console = console
        self._keys = keys
        self._view: SessionView | None = None
        self._lock = threading.Lock()
        self._live = Live(console=console, get_renderable=self._line, refresh_per_second=REFRESHES_PER_S)

    def show(self, view: SessionView) -> None:
        """The session has gone on to something else."""
        with self._lock:
            changed = self._view is None or view.activity != self._view.activity
            self._view = view
        if changed and not self._console.is_terminal:
            self._console.print(f"[{view.progress.text()}] {view.activity}", markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _line(self) -> Text:
        with self._lock:
            view = self._view
        if view is None:
            return Text("starting")
        line = Text(f"{view.progress.text()}  ", style="bold")
        line.append(view.activity, style="cyan")
        loop, mapper = view.loop, view.mapper
        if loop is not None and mapper is not None:
            command = loop.command
            line.append(f"  {loop.statistics.ticks / 15:.1f} s  speed {mapper.speed_scale:g}  ")
            if loop.paused:
                line.append("PAUSED ", style="bold yellow")
            elif command is not None:
                engaged = command.clutch is ClutchState.ENGAGED
                line.append(command.clutch.value, style="bold green" if engaged else "yellow")
                for limitation in sorted(limitation.value for limitation in command.limitations):
                    line.append(f"  {limitation}", style="red")
            if loop.message:
                line.append(f"  {loop.message}", style="bold red")
        line.append(f"\n{self._keys}", style="dim")
        return line

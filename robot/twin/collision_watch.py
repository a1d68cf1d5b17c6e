"""When the simulated controller takes a contact for a collision: one rule, with and without its wires."""

from dataclasses import dataclass

COLLISION_FORCE_N = (float("inf"), 150.0, 110.0, 80.0, 55.0, 35.0)
"""Contact force that trips each collision level, 0 (off) to 5: a model, the vendor publishes no figures."""
COLLISION_FILTER_S = 0.01
"""Time constant of the force estimate: a single contact spike is no collision."""


@dataclass
class CollisionWatch:
    """Follows the force of everything outside that touches the arm."""

    _estimate_n: float = 0.0

    def feels(self, force_n: float, *, dt_s: float, level: int) -> bool:
        """Take in the force over the last ``dt_s``; whether it is a collision at that level (0 off to 5)."""
        self._estimate_n += dt_s / (COLLISION_FILTER_S + dt_s) * (force_n - self._estimate_n)
        return self._estimate_n > COLLISION_FORCE_N[level]

    def forget(self) -> None:
        """Begin again from no force."""
        self._estimate_n = 0.0

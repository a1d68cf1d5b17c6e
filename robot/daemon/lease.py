"""Who asks, and who may move the arm: one holder at a time, everybody else reads."""

from dataclasses import dataclass

from robot.daemon.errors import LeaseHeldError, NoLeaseError


@dataclass(frozen=True)
class Peer:
    """One connection to robotd: its number, the name it gave and its process (from the kernel, not from the peer)."""

    number: int
    name: str
    pid: int

    def __str__(self) -> str:
        return f"{self.name!r} (process {self.pid})"


class Lease:
    """The right to move the arm. Not thread-safe: its owner holds one lock around every call."""

    def __init__(self) -> None:
        self.holder: Peer | None = None
        self._revoked: dict[int, str] = {}

    def acquire(self, peer: Peer) -> None:
        """Give it to ``peer``; again is fine. `LeaseHeldError` names the present holder."""
        if self.holder is not None and self.holder.number != peer.number:
            raise LeaseHeldError(
                f"expected the arm to be free, it is controlled by {self.holder}: end that program, or ask it to stop"
            )
        self.holder = peer
        self._revoked.pop(peer.number, None)

    def release(self, peer: Peer) -> bool:
        """Take it back from ``peer``; True if it held it."""
        held = self.holder is not None and self.holder.number == peer.number
        if held:
            self.holder = None
        return held

    def revoke(self, *, by: Peer) -> None:
        """Take it from its holder because ``by`` said stop: streaming goes on only after a deliberate acquire."""
        if self.holder is not None:
            self._revoked[self.holder.number] = f"{by} said stop"
            self.holder = None

    def forget(self, peer: Peer) -> None:
        """The connection has ended."""
        self.release(peer)
        self._revoked.pop(peer.number, None)

    def require(self, peer: Peer) -> None:
        """`NoLeaseError` unless ``peer`` holds it, saying why not."""
        if self.holder is not None and self.holder.number == peer.number:
            return
        reason = self._revoked.get(peer.number)
        if reason is not None:
            raise NoLeaseError(f"the lease was taken back: {reason}; acquire it again to go on")
        holder = f"it is held by {self.holder}" if self.holder is not None else "nobody holds it: acquire it first"
        raise NoLeaseError(f"only the holder of the control lease may do this; {holder}")

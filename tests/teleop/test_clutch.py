"""The clutch: what engages it, what ends it, and that nothing engages it by itself."""

from hypothesis import given
from hypothesis import strategies as st

from teleop.clutch import SILENCE_NS, Clutch, ClutchEvent, ClutchState

MS = 1_000_000


def test_a_clutch_that_is_down_at_the_start_engages_only_after_release_and_press() -> None:
    clutch = Clutch()
    assert clutch.update(True, heard_ns=0, now_ns=0) is ClutchEvent.NONE
    assert not clutch.engaged
    clutch.update(False, heard_ns=MS, now_ns=MS)
    assert clutch.update(True, heard_ns=2 * MS, now_ns=2 * MS) is ClutchEvent.ENGAGED


def test_silence_disengages_and_the_device_coming_back_with_the_clutch_down_changes_nothing() -> None:
    clutch = Clutch()
    clutch.update(False, heard_ns=0, now_ns=0)
    clutch.update(True, heard_ns=0, now_ns=0)
    assert clutch.update(True, heard_ns=0, now_ns=SILENCE_NS) is ClutchEvent.NONE
    assert clutch.update(True, heard_ns=0, now_ns=SILENCE_NS + 1) is ClutchEvent.SILENT
    assert clutch.update(True, heard_ns=SILENCE_NS + 2, now_ns=SILENCE_NS + 2) is ClutchEvent.NONE
    assert clutch.state is ClutchState.BLOCKED


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_engaged_always_means_a_fresh_release_followed_by_nothing_but_fresh_presses(
    readings: list[tuple[bool, bool]],
) -> None:
    clutch = Clutch()
    history: list[tuple[bool, bool]] = []
    for index, (pressed, fresh) in enumerate(readings):
        now_ns = index * MS
        clutch.update(pressed, heard_ns=now_ns if fresh else now_ns - 2 * SILENCE_NS, now_ns=now_ns)
        history.append((pressed, fresh))
        since = list(history)
        while since and since[-1] == (True, True):
            since.pop()
        released_before = bool(since) and since[-1] == (False, True)
        assert clutch.engaged == (history[-1] == (True, True) and released_before)

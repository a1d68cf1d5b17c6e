import numpy as np
import pytest

from policy_server.pi0.normalization import NormKind
from policy_server.training.data.lerobot import DatasetError
from policy_server.training.data.statistics import (
    Windows,
    normalization,
    preflight,
    refuse_degenerate,
)


def windows(rows: int = 40) -> Windows:
    random = np.random.default_rng(0)
    state = random.normal(size=(rows, 3)).astype(np.float32)
    action = (state + random.normal(size=(rows, 3)) * 0.1).astype(np.float32)
    ends = np.where(np.arange(rows) < 25, 25, rows)
    return Windows(state, action, np.arange(rows), ends)


def by_hand(data: Windows, horizon: int, relative: tuple[bool, ...]) -> list[np.ndarray]:
    steps: list[list[np.ndarray]] = [[] for _ in range(horizon)]
    for start, end in zip(data.starts, data.ends, strict=True):
        for step in range(horizon):
            if start + step < end:
                reference = np.where(relative, data.state[start], 0.0)
                steps[step].append(data.action[start + step].astype(np.float64) - reference)
    return [np.array(step) for step in steps]


@pytest.mark.parametrize("per_step", [True, False])
@pytest.mark.parametrize("kind", NormKind)
def test_statistics_are_exactly_numpys_over_the_valid_steps(per_step: bool, kind: NormKind) -> None:
    data, relative = windows(), (True, True, False)
    found = normalization([data], horizon=4, relative=relative, per_step=per_step, kind=kind, span_floor=1e-6)
    steps = by_hand(data, 4, relative)
    groups = steps if per_step else [np.concatenate(steps)]
    low, high = (
        ([g.mean(axis=0) for g in groups], [g.std(axis=0) for g in groups])
        if kind is NormKind.Z_SCORE
        else ([np.quantile(g, q, axis=0) for g in groups] for q in (0.01, 0.99))
    )
    assert np.allclose(found.actions.low, np.squeeze(low))
    assert np.allclose(found.actions.high, np.squeeze(high))


def test_no_dimension_is_divided_by_less_than_the_floor() -> None:
    data = windows()
    data.state[:, 1] = 0.5
    for kind in NormKind:
        found = normalization([data], horizon=2, relative=(False,) * 3, per_step=False, kind=kind, span_floor=0.01)
        span = found.state.high[1] if kind is NormKind.Z_SCORE else found.state.high[1] - found.state.low[1]
        assert span == pytest.approx(0.01)
        assert np.abs(found.state.normalize(np.array([0.0, 0.5, 0.0])))[1] < 1.0


def test_a_dimension_that_never_varies_is_refused_by_name_unless_it_is_meant_to() -> None:
    data = windows()
    data.action[:, 2] = 1.0
    findings = preflight([data], span_floor=1e-3, may_be_constant=())
    with pytest.raises(DatasetError, match=r"action\[2\] varies by less than 0\.001"):
        refuse_degenerate(findings)
    refuse_degenerate(preflight([data], span_floor=1e-3, may_be_constant=(2,)))


def test_relative_actions_need_a_state_of_the_same_size() -> None:
    data = windows()
    odd = Windows(data.state[:, :2], data.action, data.starts, data.ends)
    with pytest.raises(DatasetError, match="2 state and 3 action dimensions"):
        normalization([odd], horizon=2, relative=(True,) * 3, per_step=False, kind=NormKind.Z_SCORE, span_floor=1e-3)
    with pytest.raises(DatasetError, match=r"data\.relative has 2 entries"):
        normalization([data], horizon=2, relative=(True,) * 2, per_step=False, kind=NormKind.Z_SCORE, span_floor=1e-3)

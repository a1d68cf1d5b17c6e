"""May a policy run on these cameras? The same camera gives another picture through another backend.

The SDK's rectified picture, a picture undistorted without the SDK and a rendered one differ in focal length, centre and
colour. A policy trained on one does not fail visibly on another; it only succeeds less often.
"""

from collections.abc import Collection, Mapping


class BackendMismatchError(RuntimeError):
    """A policy was trained on pictures of another camera backend than the rig's."""


def backend_matches(trained_on: Mapping[str, str | Collection[str]], *, now: Mapping[str, str]) -> bool:
    """Whether each camera's backend is one that the policy was trained on.

    ``trained_on``: camera name to the backend, or backends, of its training pictures; a camera that is not named there
    says nothing and matches. ``now``: camera name to the backend of the rig. A camera that the policy needs and the rig
    lacks does not match.
    """
    return not _differences(trained_on, now=now)


def require_matching_backends(
    trained_on: Mapping[str, str | Collection[str]], *, now: Mapping[str, str], allow_other: bool = False
) -> None:
    """Raise `BackendMismatchError`, naming both sides, unless `backend_matches` or the operator's ``allow_other``."""
    differences = _differences(trained_on, now=now)
    if differences and not allow_other:
        raise BackendMismatchError(
            f"the policy was trained on other pictures than this rig's: {'; '.join(differences)}. Use a policy that "
            "was trained on this backend, change the rig's, or allow another backend explicitly."
        )


def _differences(trained_on: Mapping[str, str | Collection[str]], *, now: Mapping[str, str]) -> list[str]:
    found = []
    for camera, backends in trained_on.items():
        known = {backends} if isinstance(backends, str) else set(backends)
        if known and now.get(camera) not in known:
            found.append(f"camera {camera} trained on {' or '.join(sorted(known))}, now {now.get(camera, 'absent')}")
    return found

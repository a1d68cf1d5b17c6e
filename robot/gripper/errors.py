"""What can go wrong with the gripper, by name."""


class GripperError(RuntimeError):
    """Anything that goes wrong between this machine and the gripper."""


class GripperPortError(GripperError):
    """The serial device is absent, taken by another program, or has gone."""


class GripperSilentError(GripperError):
    """The gripper gave no valid answer within the retries."""


class GripperInitialisationError(GripperError):
    """The gripper did not finish its initialisation."""


class GripperRefusedError(GripperError):
    """The gripper answered, and refused the request."""

"""What can go wrong with the gripper, by name."""


class GripperError(RuntimeError):
    """Anything that goes wrong between this machine and the gripper."""


class GripperPortError(GripperError):
    """The serial device is absent, taken by another program, or has gone."""


class GripperSilentError(GripperError):
    """The gripper gave no valid answer within the retries."""


class GripperSlaveIdError(GripperSilentError):
    """Another slave answers on that line than the one that the rig file names."""


class GripperVariantError(GripperSilentError):
    """The device is the variant with the CAN box, which does not speak Modbus."""


class GripperUnpoweredError(GripperPortError):
    """The flange cannot be used yet: the arm is powered off, in alarm or stopped. It can be later."""


class GripperInitialisationError(GripperError):
    """The gripper did not finish its initialisation."""


class GripperHoldingError(GripperInitialisationError):
    """The jaws seem to hold something, which initialising would drop."""


class GripperTimeoutError(GripperError):
    """The jaws did not come to rest in time."""


class GripperRefusedError(GripperError):
    """The gripper answered, and refused the request."""

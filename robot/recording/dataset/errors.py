"""What can be wrong with a dataset."""


class DatasetError(ValueError):
    """A dataset folder that is none, or of another rig, rate, action or picture size than what is to be added."""


class UnfitEpisodeError(ValueError):
    """An episode that can't become rows of a dataset, with the reason."""

"""The error of data that cannot be learned from."""


class DataProblem(ValueError):
    """Images that cannot be read, or a data set without what training needs; the message names the cure."""

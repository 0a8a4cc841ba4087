"""The error of the user's making: its message says what was wrong, what was expected and what to do."""


class UserError(ValueError):
    """A mistake in the command line or in the user's files.

    ``utils.cli.run`` prints its message in one line. Any other ValueError is a fault of the program and shows
    its traceback.
    """

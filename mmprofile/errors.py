"""The one exception that users are meant to see."""


class UserError(Exception):
    """A mistake outside the code: config, files, network, disk.

    The message is one line that says what is wrong, where, and what to do. Entry points print it without a stack trace
    and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

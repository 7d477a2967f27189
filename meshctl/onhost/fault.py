"""The one expected failure of a program on a host."""


class Fault(Exception):
    """One sentence for the operator; ``output`` is what a command or the journal said.

    ``code``: ``failed``, ``moved`` (a precondition does not hold), ``locked``.
    """

    def __init__(self, message: str, *, output: str = "", code: str = "failed") -> None:
        super().__init__(message)
        self.output = output
        self.code = code
        self.outcome = ""
        """What was done about it: ``rolled-back``, ``stopped``, ``broken``; empty: nothing."""

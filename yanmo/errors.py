"""Errors that a person can act on."""


class UserError(ValueError):
    """What was given, where (file, line, field), what is allowed, what to do: the command line prints it without a traceback."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM during training: all is saved, and the same command goes on."""

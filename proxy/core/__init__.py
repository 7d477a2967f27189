"""Decisions without I/O: which endpoint, whether to retry, when to back off, what is healthy.

Everything here is a function of its arguments, time and chance among them, so that a table of
cases is its test. Nothing here knows of a socket, a file or a clock.
"""

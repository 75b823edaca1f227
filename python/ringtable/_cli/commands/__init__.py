"""The commands, a module each, which `app.py` imports when its name is typed.

Such a module declares its options and words (`arguments`), and does what was asked for (`run`). What takes long to
import is imported by the latter, and only where it is used. What is wrong is raised: `Error` and `OSError`, or
`InvalidOption` for a command line.
"""

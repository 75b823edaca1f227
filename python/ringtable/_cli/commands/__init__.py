"""The commands, a module each, which `app.py` imports when its name is typed.

Such a module declares its options and words (`arguments`), which imports nothing of what only the run needs, and does
what was asked for (`run`). What is wrong is raised: `Error` and `OSError`, or `InvalidOption` for a command line.
"""

"""What of `typing` stands in code that runs; `typing` itself takes longer to import than all of ringtable.

For the modules that `import ringtable` loads: what their annotations need is imported under `TYPE_CHECKING`, and
annotations are never evaluated. Type checkers take all names here for those of `typing`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import cast as cast
    from typing import overload as overload
else:

    def cast(kind, value):
        return value

    def overload(function):
        return function

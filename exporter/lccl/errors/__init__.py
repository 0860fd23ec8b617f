"""What callers get wrong, each as one sentence with its fix.

Files, options and values (:class:`UserError`), types of arguments, packages that are not installed,
names that were changed. Nothing here imports a package of others.
"""

from lccl.errors.user_error import (
    ContractError,
    Fix,
    UserError,
    first_line,
    innermost,
    kind_of,
    leave_out,
    shown,
    spelled,
)

__all__ = ["ContractError", "Fix", "UserError", "first_line", "innermost", "kind_of", "leave_out", "shown", "spelled"]

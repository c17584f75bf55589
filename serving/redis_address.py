"""What is said of an address of Redis that cannot be read."""

from __future__ import annotations

from features.errors import InvalidParameterError


def unreadable_address(variable: str, whose: str, error: ValueError) -> InvalidParameterError:
    """The error of an address that Redis' client refuses; not the address itself: a password may be in it.

    Args:
        variable: Names the setting, such as `TOWNCAST_LIMITS_REDIS_URL`.
        whose: Whose Redis it is, such as `limits'`.
        error: What the client says.
    """
    return InvalidParameterError(
        parameter=variable,
        provided=str(error),
        allowed="redis://[user:password@]host:port/number",
        fact=f"The address of the {whose} Redis cannot be read",
        remedy=f"Set {variable} like redis://localhost:6379/0.",
    )

"""Cases of a test that come one after the other in one test, where each would start a service of
its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any

Test = Callable[..., Awaitable[None]]


def in_turn(names: str | Sequence[str], cases: Sequence[Any]) -> Callable[[Test], Test]:
    """Decorate a test as `pytest.mark.parametrize` does; the cases share its fixtures. A failure
    names its case, and the cases after it do not run.
    """
    several = [names] if isinstance(names, str) else list(names)

    def decorate(test: Test) -> Test:
        @wraps(test)
        async def all_cases(**fixtures: Any) -> None:
            for n, case in enumerate(cases):
                values = [case] if isinstance(names, str) else case
                try:
                    await test(**fixtures, **dict(zip(several, values, strict=True)))
                except BaseException as error:
                    error.add_note(f"in case {n}: {case!r:.1000}")
                    raise

        signature = inspect.signature(test)
        rest = [one for one in signature.parameters.values() if one.name not in several]
        all_cases.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return all_cases

    return decorate

"""An event loop whose clock can be moved, and an issuer to go with it."""

import asyncio
from collections.abc import Callable
from typing import Any

from infra.local.issuer import Issuer, new_key


class Clocked(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved on."""

    ahead = 0.0

    def time(self) -> float:
        """The clock, moved on."""
        return super().time() + self.ahead


def run(scenario: Callable[[Issuer, str, "Clocked"], Any]) -> None:
    """Run a scenario with a published issuer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clocked)
        issuer = Issuer(new_key())
        runner, url = await issuer.serve()
        try:
            await scenario(issuer, url, loop)
        finally:
            await runner.cleanup()

    with asyncio.Runner(loop_factory=Clocked) as runner:
        runner.run(main())

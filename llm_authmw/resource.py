"""What layers share and a lifespan owns."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Resource(Protocol):
    """What layers share and the app's lifespan owns: a store, later an issuer."""

    async def start(self) -> None:
        """Make it ready; starting twice is starting once."""

    async def aclose(self) -> None:
        """End it; it starts again on its next use."""

"""The calls about reference banks, for asyncio programs."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from naflow_client._core import bank_messages as messages
from naflow_client._core.methods import Deadline
from naflow_client.banks import Appended, BankStatus


class AsyncBankCalls(ABC):
    """The calls about reference banks; a part of `AsyncClient`."""

    async def create_bank(
        self, bank: str, dimension: int, model_sha256: str, *, deadline: float | None = None
    ) -> BankStatus:
        """Make an empty bank.

        Args:
            dimension: numbers in each embedding.
            model_sha256: of the model file that the embeddings will come from, as in its report; appends
                from any other are refused.

        Raises:
            RequestError: an impossible value, or there is a bank of that name.
            CallError: see there.
        """
        request = messages.create_request(bank, dimension, model_sha256)
        return messages.bank_status((await self._unary("create_bank", request, self._limit(deadline))).bank)

    async def append_references(
        self,
        bank: str,
        embeddings: ArrayLike,
        labels: Sequence[str | None] | None = None,
        *,
        model_sha256: str,
        append_id: str | None = None,
        deadline: float | None = None,
    ) -> Appended:
        """Add embeddings at the end of a bank. They are on the server's disk when this returns.

        More than 8 MiB go in several appends, each of which is there as a whole or not at all. Retries never
        add anything twice; nor does calling again with the same arguments and the same `append_id`, which
        goes on where a call broke off.

        Args:
            embeddings: [N, dimension], float32 or anything that fits into it.
            labels: N, None or "" for those without one.
            model_sha256: of the model file that they come from.
            append_id: up to 100 printable ASCII characters, another one for every append to this bank; a
                random one when None.

        Raises:
            RequestError: an impossible value, or the bank is of another model.
            CallError: see there.
        """
        batches = await asyncio.to_thread(messages.batches, bank, embeddings, labels, model_sha256, append_id)
        limit = self._limit(deadline)
        done = [
            messages.positions(batch, await self._unary("append_references", batch, limit))
            for batch in batches
        ]
        return messages.appended(done)

    async def list_banks(self, *, deadline: float | None = None) -> tuple[BankStatus, ...]:
        """Every bank of the server, by name.

        Raises:
            CallError: see there.
        """
        answer = await self._unary("list_banks", messages.list_request(), self._limit(deadline))
        return tuple(messages.bank_status(item) for item in answer.banks)

    async def get_bank(self, bank: str, *, deadline: float | None = None) -> BankStatus:
        """One bank.

        Raises:
            CallError: see there; NotFoundError when it does not exist.
        """
        answer = await self._unary("get_bank", messages.get_request(bank), self._limit(deadline))
        return messages.bank_status(answer.bank)

    async def delete_bank(self, bank: str, *, deadline: float | None = None) -> None:
        """Delete a bank with everything in it. One that is made under the same name meanwhile stays.

        Raises:
            CallError: see there; NotFoundError when it does not exist.
        """
        limit = self._limit(deadline)
        found = (await self._unary("get_bank", messages.get_request(bank), limit)).bank
        await self._unary("delete_bank", messages.delete_request(found), limit)

    @abstractmethod
    def _limit(self, deadline: float | None) -> Deadline:
        """The end of a call that may take so many seconds."""

    @abstractmethod
    async def _unary(self, name: str, request: Any, limit: Deadline) -> Any:
        """Make a call of the table, with retries."""

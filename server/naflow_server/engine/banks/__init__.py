"""Reference banks on disk: named, append-only tables of embeddings that survive a crash."""

from naflow_server.engine.banks.banks import Banks
from naflow_server.engine.banks.types import Appended, BankInfo, BankNumbers, Snapshot

__all__ = ["Appended", "BankInfo", "BankNumbers", "Banks", "Snapshot"]

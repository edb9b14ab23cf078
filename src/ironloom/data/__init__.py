"""Corpora to tokens, tokens to samples, samples to batches. Rank and size are integers here."""

from ironloom.data.blocks import TokenBlocks, collate_blocks
from ironloom.data.collate import ColumnFilter, PadCollator, default_collate, keep_columns
from ironloom.data.corpus import fingerprint, read_documents
from ironloom.data.isolation import Isolation
from ironloom.data.loader import Loader, make_loader
from ironloom.data.mixture import Mixture
from ironloom.data.order import Permutation
from ironloom.data.packed import PackedRows
from ironloom.data.plan import steps_of_epochs
from ironloom.data.preferences import DPOData, PreferencePairs, collate_pairs
from ironloom.data.pretrain import PretrainData
from ironloom.data.rows import TrainedRows, collate_rows
from ironloom.data.sft import SFTData
from ironloom.data.splits import split_ranges
from ironloom.data.store import TokenStore, prepare
from ironloom.data.stream import IterableLoader
from ironloom.data.tokenizer import Tokenizer
from ironloom.data.tokenizer_types import make_tokenizer

__all__ = [
    "ColumnFilter",
    "DPOData",
    "Isolation",
    "IterableLoader",
    "Loader",
    "Mixture",
    "PackedRows",
    "PadCollator",
    "Permutation",
    "PreferencePairs",
    "PretrainData",
    "SFTData",
    "TokenBlocks",
    "TokenStore",
    "Tokenizer",
    "TrainedRows",
    "collate_blocks",
    "collate_pairs",
    "collate_rows",
    "default_collate",
    "fingerprint",
    "keep_columns",
    "make_loader",
    "make_tokenizer",
    "prepare",
    "read_documents",
    "split_ranges",
    "steps_of_epochs",
]

"""Data sets: CIFAR-10, pictures in folders and in shards, and the digits that ship inside scikit-learn."""

from sterna.data.dataset import Batch, BatchDataset, DataSplits, DetectionBatch
from sterna.data.load import load_data
from sterna.data.loader import make_loader
from sterna.data.paths import resolve_data_path

__all__ = ["Batch", "BatchDataset", "DataSplits", "DetectionBatch", "load_data", "make_loader", "resolve_data_path"]

"""What has become of each prompt: one record, one writer (``ledger.py``), one table of states."""

"""A module for each library whose critics are read; `dtag_fast.interop.source.Format` is what they offer."""

"""Runners: a with-block and ``infer(feed) -> outputs``, one file per runtime. They know files and arrays, not LCCL."""

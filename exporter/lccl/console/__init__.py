"""What a terminal shows: tables, progress of long work, and nothing of other libraries."""

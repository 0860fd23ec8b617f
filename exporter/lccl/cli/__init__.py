"""The commands: arguments, printing and exit codes only; one file per command."""

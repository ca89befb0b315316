"""Exit codes of every program of ours; 0 is ok."""

EXIT_FAILED = 1
EXIT_USAGE = 2  # or wrong settings
EXIT_INFRASTRUCTURE = 3  # Redis or Dagster's database away
EXIT_STOPPED = 130  # by Ctrl-C, as a shell reports it

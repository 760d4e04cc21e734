"""Exit codes of the commands. Nothing is imported: `jsbox --help` does without the rest."""

EXIT_FAILED, EXIT_CONFIG, EXIT_UNREACHABLE = 1, 3, 4
EXIT_INTERRUPTED = 130  # as a shell has it

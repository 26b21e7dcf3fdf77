"""The machine and its rules: configuration, paths, facts about the host."""

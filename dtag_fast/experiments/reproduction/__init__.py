"""The experiments of the papers as pieces of work: each is done once, kept, and shared by the suites."""

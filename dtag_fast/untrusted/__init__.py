"""Files from strangers: nothing in them runs, and reading takes memory and time as their bytes do."""

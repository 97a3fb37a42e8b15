"""How long rigs run: `RIGS_ROUNDS` rounds, one in `make test`, each with seeds of its own."""

import os

ROUNDS = int(os.environ.get("RIGS_ROUNDS", "1"))
FIRST = int(os.environ.get("RIGS_SEED", "1"))
LONG = ROUNDS > 1  # with all file systems, and the programs that `make rigs` brings
# So many more requests where a run is to be long.
MORE = 10 if LONG else 1


def seeds() -> range:
    """The seed of each round."""
    return range(FIRST, FIRST + ROUNDS)

"""How long rigs run: `RIGS_ROUNDS` rounds, one in `make test`, each with seeds of its own."""

import os

ROUNDS = int(os.environ.get("RIGS_ROUNDS", "1"))
FIRST = int(os.environ.get("RIGS_SEED", "1"))
# So many more requests where a run is to be long.
MORE = 1 if ROUNDS == 1 else 10


def seeds() -> range:
    """The seed of each round."""
    return range(FIRST, FIRST + ROUNDS)

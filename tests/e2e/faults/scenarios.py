"""The table: what a registry may do to us, and what comes of it."""

from tests.e2e.faults.answers import BODIES, RANGES, REDIRECTS, STATUSES
from tests.e2e.faults.connections import CONNECTIONS
from tests.e2e.faults.contents import CONTENTS
from tests.e2e.faults.credentials import CREDENTIALS, TOKENS
from tests.e2e.faults.detours import MIRRORS, P2P
from tests.e2e.faults.scenario import Section
from tests.e2e.faults.tls import TLS

SECTIONS: tuple[Section, ...] = (
    STATUSES,
    RANGES,
    BODIES,
    REDIRECTS,
    CREDENTIALS,
    TOKENS,
    CONNECTIONS,
    TLS,
    CONTENTS,
    MIRRORS,
    P2P,
)

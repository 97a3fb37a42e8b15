"""The table: what a registry may do to us, and what comes of it."""

from tests.e2e.faults.answers import BODIES, RANGES, REDIRECTS, STATUSES
from tests.e2e.faults.connections import CONNECTIONS
from tests.e2e.faults.credentials import CREDENTIALS, TOKENS
from tests.e2e.faults.scenario import Section

SECTIONS: tuple[Section, ...] = (STATUSES, RANGES, BODIES, REDIRECTS, CREDENTIALS, TOKENS, CONNECTIONS)

"""What one end of a connection waits for that only the other end can do."""

from enum import Enum


class Awaited(Enum):
    """What the peer is to do before this end can go on."""

    NOTHING = "nothing: it is our turn"
    REQUEST = "to send the next request"
    LINE = "to send the rest of a line"
    LONG_LINE = "to send the rest of a line that has room in the budget"
    PAYLOAD = "to send the rest of a payload"
    READING = "to read what was sent to it"

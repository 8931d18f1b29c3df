"""The contract: one conversation a line, its schema, its rules and its checks.

Everything else depends on this package; it depends on nothing of ours.
"""

from phi3v.schema.check import Checker, Limit, check
from phi3v.schema.errors import UserError
from phi3v.schema.findings import CODES, Finding
from phi3v.schema.records import Conversation, RecordError, Turn

__all__ = ["CODES", "Checker", "Conversation", "Finding", "Limit", "RecordError", "Turn", "UserError", "check"]

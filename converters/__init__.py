"""From published data to the contract: `phi3v-data convert NAME`, or `convert` here."""

from phi3v.converters.journal import Converted, Rejected
from phi3v.converters.run import Planned, Run, convert

__all__ = ["Converted", "Planned", "Rejected", "Run", "convert"]

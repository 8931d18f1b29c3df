"""From published data to the contract: `phi3v-data convert NAME`, or `convert` here."""

from phi3v.converters.run import convert

__all__ = ["convert"]

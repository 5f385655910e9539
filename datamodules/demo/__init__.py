"""The demo city: a synthetic, licence-free town in the raw format of the Yelp Open Dataset."""

from datamodules.demo.city import EVIDENCE, write_city

__all__ = ["EVIDENCE", "write_city"]

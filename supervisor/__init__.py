"""The jsbox supervisor: gateway > dispatcher > pool > sandbox > wire > protocol, with router, jail,
config and service.
"""

__version__ = "0.1.0"

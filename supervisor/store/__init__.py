"""The store's server: the embedded Valkey with its files and its disk, or one of the operator's
own.
"""

"""The store's server: the embedded Valkey with its files and its disk, or one that the operator
runs.
"""

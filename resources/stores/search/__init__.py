"""Lucene's classic query language over contacts: text to nodes (`lucene`), fields and analysis (`fields`), and the search itself."""

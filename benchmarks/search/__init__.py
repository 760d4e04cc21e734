"""Contact search against raw tantivy, SQLite FTS5, Xapian and Whoosh."""

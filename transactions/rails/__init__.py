"""Ways to other banks: what transactions needs of one, and the one that there is, ISO 20022 files in a folder."""

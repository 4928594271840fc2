"""Payment files: what ISO 20022 pain.001 says, and the transfers it asks for; it must not call anybody."""

"""The one package that all services share: plumbing and money; it knows no service."""

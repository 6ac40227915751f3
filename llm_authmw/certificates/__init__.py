"""Client certificates: what one says, the forms in which servers and proxies hand it on, and whom it makes known."""

"""What every store does alike with the audit trail: what an entry is found by, and what is summed up of it."""

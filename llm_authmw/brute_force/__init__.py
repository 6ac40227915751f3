"""Guessing: failures are counted by where they come from, and who is wrong too often has to wait."""

"""The record of what happened: what is in it, how it is written, chained and sealed, how it is read and verified again."""

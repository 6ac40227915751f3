"""Who is calling: one layer for each kind of credential."""

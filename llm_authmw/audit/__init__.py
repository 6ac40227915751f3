"""What happened: the layer that writes a record of every request, on every way out."""

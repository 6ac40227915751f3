"""What happens, as figures: instruments, and the exporters that carry them out."""

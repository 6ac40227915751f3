"""What somebody should look at, told once: to a log, a webhook, a function."""
